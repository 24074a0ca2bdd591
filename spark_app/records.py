"""From files to records: one row a record, with its raw text, before anything is judged.

A record of a streams file is a physical line, so that large files are split among tasks. Records of songs and users
may span lines inside quotes; they are cut out by `split_records`, which loses only the bad line where a quote is
never closed (a CSV reader in multi-line mode would swallow what follows).
"""

from __future__ import annotations

import csv
import gzip
import io
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from operator import or_
from typing import Any, BinaryIO, TextIO, cast

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from spark_app.contracts import Contract
from spark_app.storage import storage_for

UNCLOSED_QUOTE = "unclosed_quote"
WRONG_COLUMN_COUNT = "wrong_column_count"
WHITE_SPACE = " \t\r\n\f\v"
_FIRST_NOT_WHITE = "!"  # in the order of bytes, all white space comes before it
_MAX_RECORD_LINES = 1000
_MAX_COLUMNS = 20000
csv.field_size_limit(sys.maxsize)

RECORD_SCHEMA = T.StructType(
    [
        T.StructField("file_id", T.IntegerType(), False),
        T.StructField("file_modified_at", T.TimestampType(), False),
        T.StructField("line_number", T.LongType()),
        T.StructField("lines", T.IntegerType(), False),
        T.StructField("raw", T.StringType(), False),
    ]
)


@dataclass(frozen=True)
class SourceFile:
    """A file to read: what records carry of it. All files of one frame have the same header."""

    file_id: int
    uri: str
    modified_at: datetime
    header: tuple[str, ...]


def line_records(spark: SparkSession, files: list[SourceFile]) -> DataFrame:
    """Read files by physical lines (RECORD_SCHEMA, without line numbers; header lines are still among them)."""
    lines = _text_lines(spark, files).select("path", "raw")
    return _with_file(spark, lines, files).select(
        "file_id", "file_modified_at", F.lit(None).cast("bigint").alias("line_number"), F.lit(1).alias("lines"), "raw"
    )


def numbered_line_records(spark: SparkSession, files: list[SourceFile]) -> DataFrame:
    """Like `line_records`, with line numbers (the header is line 1); reads the files twice."""
    rows = _text_lines(spark, files).select(
        "path", "raw", F.col("_metadata.file_block_start").alias("block"), F.monotonically_increasing_id().alias("row")
    )
    in_order = Window.partitionBy("path").orderBy("block").rowsBetween(Window.unboundedPreceding, -1)
    blocks = (
        rows.groupBy("path", "block")
        .agg(F.min("row").alias("first_row"), F.count(F.lit(1)).alias("block_lines"))
        .withColumn("lines_before", F.coalesce(F.sum("block_lines").over(in_order), F.lit(0)))
        .select("path", "block", "first_row", "lines_before")
    )
    numbered = rows.join(F.broadcast(blocks), on=["path", "block"], how="inner").withColumn(
        "line_number", F.col("lines_before") + F.col("row") - F.col("first_row") + 1
    )
    return _with_file(spark, numbered, files).select(
        "file_id", "file_modified_at", "line_number", F.lit(1).alias("lines"), "raw"
    )


def quoted_records(spark: SparkSession, files: list[SourceFile]) -> DataFrame:
    """Read files whose fields may hold line breaks (RECORD_SCHEMA); a file is one task. The header is left out."""
    slices = min(len(files), 4 * spark.sparkContext.defaultParallelism)
    rows = spark.sparkContext.parallelize(files, slices).flatMap(_file_records)
    return spark.createDataFrame(rows, RECORD_SCHEMA, verifySchema=False)


def is_blank(raw: Column) -> Column:
    """Whether a line holds nothing but white space: such a line is no record."""
    return (raw < F.lit(_FIRST_NOT_WHITE)) & (F.length(F.btrim(raw, F.lit(WHITE_SPACE))) == 0)


def trimmed(text: Column) -> Column:
    """Take white space off both ends. Most fields have none, and to see that is much cheaper than to trim."""
    ends = reduce(or_, [text.endswith(character) for character in WHITE_SPACE])
    clean = (text >= F.lit(_FIRST_NOT_WHITE)) & ~ends
    return F.when(clean, text).otherwise(F.btrim(text, F.lit(WHITE_SPACE)))


def split_fields(records: DataFrame, contract: Contract, header: tuple[str, ...]) -> DataFrame:
    """Add one text column a contract column (trimmed; empty is NULL) and `structure`, the reason of a broken record.

    One row in, one row out. Columns go by the header's names; what the header lacks is NULL.
    """
    quotes = F.when(F.col("raw").contains('"'), _occurrences('"')).otherwise(F.lit(0))
    commas = _occurrences(",")
    counted = records.select("*", quotes.alias("quotes"), commas.alias("commas"))
    quoted = F.col("quotes") > 0
    parsable = quoted & (F.col("quotes") % 2 == 0) & (F.col("commas") < _MAX_COLUMNS)
    parsed = counted.select(
        "*",
        F.from_csv(F.when(parsable, _without_line_end(F.col("raw"))), _csv_schema(len(header)), _CSV_OPTIONS).alias(
            "csv"
        ),
    )
    structure = (
        F.when(F.col("quotes") % 2 == 1, UNCLOSED_QUOTE)
        .when(~quoted & (F.col("commas") != len(header) - 1), WRONG_COLUMN_COUNT)
        .when(quoted & (F.col("csv").isNull() | F.col("csv.bad").isNotNull()), WRONG_COLUMN_COUNT)
    )
    fields = []
    for column in contract.columns:
        if column.name not in header:
            fields.append(F.lit("").alias(column.name))
            continue
        position = header.index(column.name)
        value = F.when(quoted, F.col(f"csv.c{position}")).otherwise(_plain_field(F.col("raw"), position, len(header)))
        fields.append(trimmed(value).alias(column.name))
    fielded = parsed.select(*records.columns, structure.alias("structure"), *fields)
    filled = [F.when(F.col(name) != "", F.col(name)).alias(name) for name in contract.names]
    return fielded.select(*records.columns, "structure", *filled)


_CSV_OPTIONS = {
    "mode": "PERMISSIVE",
    "columnNameOfCorruptRecord": "bad",
    "quote": '"',
    "escape": '"',
    "charToEscapeQuoteEscaping": "\0",
    "maxCharsPerColumn": "-1",
    "maxColumns": str(_MAX_COLUMNS + 10),
}


def _occurrences(character: str) -> Column:
    raw = F.col("raw")
    return F.octet_length(raw) - F.octet_length(F.replace(raw, F.lit(character), F.lit("")))


def _csv_schema(columns: int) -> str:
    return ", ".join([*(f"c{position} string" for position in range(columns)), "bad string"])


def _without_line_end(text: Column) -> Column:
    return F.btrim(text, F.lit("\r\n"))


def _plain_field(raw: Column, position: int, columns: int) -> Column:
    """Cut one field out of a line without quotes; byte-wise, so it is cheap where there are few columns."""
    if position == 0:
        return F.substring_index(raw, ",", 1)
    if position == columns - 1:
        return F.substring_index(raw, ",", -1)
    return F.substring_index(F.substring_index(raw, ",", position + 1), ",", -1)


def _text_lines(spark: SparkSession, files: list[SourceFile]) -> DataFrame:
    paths = [_as_glob(file.uri) for file in files]
    lines = spark.read.option("lineSep", "\n").text(paths)
    return lines.select(F.col("value").alias("raw"), F.col("_metadata.file_path").alias("path"), "_metadata")


def _with_file(spark: SparkSession, lines: DataFrame, files: list[SourceFile]) -> DataFrame:
    rows = [(spark_path(spark, file.uri), file.file_id, file.modified_at) for file in files]
    known = spark.createDataFrame(rows, "path string, file_id int, file_modified_at timestamp")
    return lines.where(~is_blank(F.col("raw"))).join(F.broadcast(known), on="path", how="inner")


def spark_path(spark: SparkSession, uri: str) -> str:
    """Return a file's URI as `_metadata.file_path` shows it (percent-encoded once, by Hadoop's own rules)."""
    # pyspark has no public way to the file system's own encoding of names
    jvm: Any = spark._jvm  # noqa: SLF001
    path = jvm.org.apache.hadoop.fs.Path(uri if "://" in uri else f"file:{uri}")
    return str(path.toUri().toString())


def _as_glob(uri: str) -> str:
    return "".join(f"\\{character}" if character in "{}[]*?\\" else character for character in uri)


def _file_records(file: SourceFile) -> Iterator[tuple[int, datetime, int, int, str]]:
    with storage_for(file.uri).open(file.uri) as stream:
        binary = cast(BinaryIO, gzip.GzipFile(fileobj=stream)) if file.uri.endswith(".gz") else stream
        with io.TextIOWrapper(binary, encoding="utf-8-sig", newline="\n") as text:
            for line_number, lines, raw in split_records(text, len(file.header)):
                yield file.file_id, file.modified_at, line_number, lines, raw


def split_records(text: TextIO | Iterable[str], columns: int) -> Iterator[tuple[int, int, str]]:
    """Yield (line number, physical lines, raw text) of each record after the header line.

    A record goes on over line ends while a quote is open, and is believed if it then has the right number of
    columns. If not, its first line alone is a (bad) record and reading goes on at the next line.
    """
    waiting: list[tuple[int, str]] = []
    numbered = enumerate(text, start=1)
    next(numbered, None)
    while True:
        if not waiting:
            entry = next(numbered, None)
            if entry is None:
                return
            waiting.append(entry)
        number, line = waiting[0]
        if not line.strip(WHITE_SPACE):
            waiting.pop(0)
            continue
        taken = 1
        if line.count('"') % 2:
            taken = _lines_of_quoted_record(waiting, numbered, columns)
        raw = "".join(part for _, part in waiting[:taken])
        blank = sum(1 for _, part in waiting[:taken] if not part.strip(WHITE_SPACE))
        del waiting[:taken]
        yield number, taken - blank, raw.rstrip("\r\n")


def _lines_of_quoted_record(waiting: list[tuple[int, str]], numbered: Iterator[tuple[int, str]], columns: int) -> int:
    """Return how many lines the record at the head of `waiting` has, reading on as needed."""
    quotes = waiting[0][1].count('"')
    taken = 1
    while quotes % 2 and taken < _MAX_RECORD_LINES:
        if taken == len(waiting):
            entry = next(numbered, None)
            if entry is None:
                return 1
            waiting.append(entry)
        quotes += waiting[taken][1].count('"')
        taken += 1
    if quotes % 2:
        return 1
    try:
        rows = list(csv.reader(io.StringIO("".join(part for _, part in waiting[:taken]), newline=""), strict=True))
    except csv.Error:
        return 1
    return taken if len(rows) == 1 and len(rows[0]) == columns else 1
