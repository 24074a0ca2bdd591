"""From files to records: one row a record, with its raw text, before anything is judged.

A record of a streams file is a physical line, so that large files are split among tasks. Records of songs and users
may span lines inside quotes; they are cut out by `split_records`, which loses only the bad line where a quote is
never closed (a CSV reader in multi-line mode would swallow what follows).
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from itertools import accumulate
from operator import and_, or_
from typing import Any, BinaryIO, TextIO, cast

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from kpi_common.contracts import BROKEN_QUOTES, FIRST_NOT_WHITE, WHITE_SPACE, Contract
from kpi_common.files import as_glob, storage_for
from spark_app.spark.local_frames import local_frame

UNCLOSED_QUOTE = "unclosed_quote"
WRONG_COLUMN_COUNT = "wrong_column_count"
_MAX_RECORD_LINES, _MAX_RECORD_LENGTH = 1000, 1024 * 1024
# `\"` and `\\`, and what they are in RFC 4180's way: a pair of quotes, and one backslash.
_ESCAPED, _UNESCAPED = r'\\(?:(")|(\\))', r"\1\1\2"
BYTE_ORDER_MARK = "\ufeff"  # before a header
# What stands between commas, in quotes or without any.
_CELL = r'(?<![^,])(?:(?:"[^"]*+")++|[^",]*+)(?![^,])'
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
LINE_COLUMNS = ("file_id", "file_modified_at", "block", "row", "lines", "raw")


@dataclass(frozen=True)
class Block:
    """A part of a file that a task reads as one: its smallest `row` and how many lines it has, blank ones too."""

    first_row: int
    lines: int


@dataclass(frozen=True)
class SourceFile:
    """A file to read: what records carry of it. All files of one frame have the same header."""

    file_id: int
    uri: str
    modified_at: datetime
    header: tuple[str, ...]
    quote_escape: str = "double"


def line_records(spark: SparkSession, files: list[SourceFile]) -> DataFrame:
    """Read files by physical lines: a row each of LINE_COLUMNS, the header lines and blank ones (lines = 0) too.

    `block` is the byte at which the part of the file begins that a task reads as one; within it, `row` grows by one
    from line to line. `number_lines` makes line numbers of them once the lines of each block are counted.
    """
    known = local_frame(
        spark,
        [(spark_path(spark, file.uri), file.file_id, file.modified_at) for file in files],
        "path string, file_id int, file_modified_at timestamp",
    )
    lines = spark.read.option("lineSep", "\n").text([as_glob(file.uri) for file in files])
    rows = lines.select(
        F.col("_metadata.file_path").alias("path"),
        F.col("_metadata.file_block_start").alias("block"),
        F.monotonically_increasing_id().alias("row"),
        F.col("value").alias("raw"),
    )
    return (
        rows.join(F.broadcast(known), on="path", how="inner")
        .withColumn("lines", F.when(is_blank(F.col("raw")), 0).otherwise(1))
        .select(*LINE_COLUMNS)
    )


def number_lines(rows: DataFrame, blocks: Mapping[int, Mapping[int, Block]]) -> DataFrame:
    """Add `line_number` (the header is line 1) to some rows of `line_records`; `blocks` are those of each file_id."""
    before = [
        (file_id, start, counted - of_file[start].first_row + 1)
        for file_id, of_file in blocks.items()
        for start, counted in zip(sorted(of_file), _lines_before(of_file), strict=True)
    ]
    offsets = local_frame(rows.sparkSession, before, "file_id int, block bigint, offset bigint")
    numbered = rows.join(F.broadcast(offsets), on=["file_id", "block"], how="inner")
    return numbered.withColumn("line_number", F.col("row") + F.col("offset")).drop("offset")


def _lines_before(blocks: Mapping[int, Block]) -> Iterator[int]:
    """Lines of the file before each of its blocks, in their order."""
    counts = [blocks[start].lines for start in sorted(blocks)]
    return accumulate(counts[:-1], initial=0)


def quoted_records(spark: SparkSession, files: list[SourceFile]) -> DataFrame:
    """Read files whose fields may hold line breaks (RECORD_SCHEMA); a file is one task. The header is left out."""
    slices = min(len(files), 4 * spark.sparkContext.defaultParallelism)
    rows = spark.sparkContext.parallelize(files, slices).flatMap(_file_records)
    return spark.createDataFrame(rows, RECORD_SCHEMA, verifySchema=False)


def is_blank(raw: Column) -> Column:
    """Whether a line holds nothing but white space: such a line is no record."""
    return (raw < F.lit(FIRST_NOT_WHITE)) & (F.length(F.btrim(raw, F.lit(WHITE_SPACE))) == 0)


def trimmed(text: Column) -> Column:
    """Take white space off both ends. Most fields have none, and to see that is much cheaper than to trim."""
    ends = reduce(or_, [text.endswith(character) for character in WHITE_SPACE])
    clean = (text >= F.lit(FIRST_NOT_WHITE)) & ~ends
    return F.when(clean, text).otherwise(F.btrim(text, F.lit(WHITE_SPACE)))


def without_carriage_returns(lines: DataFrame) -> DataFrame:
    """Take those at the end off `raw`. Most lines have none, and to see that is much cheaper."""
    raw = F.col("raw")
    return lines.withColumn("raw", F.when(raw.endswith("\r"), F.expr(r"trim(TRAILING '\r' FROM raw)")).otherwise(raw))


def split_fields(records: DataFrame, contract: Contract, header: tuple[str, ...], *, quotes: bool = True) -> DataFrame:
    """Add one text column per contract column (trimmed; its null values are NULL) and `structure`, why it is broken.

    One row in, one row out. Columns go by the header's names; what the header lacks is NULL. Without `quotes` there is
    surely none in these records, which spares much work.
    """
    # Each step's columns are used several times in the next one, so that Spark computes them once and keeps them apart.
    cut = _cut_quoted(records, contract) if quotes else _cut_plain(records, len(header))
    has_cells = F.size("cells") == len(header)
    there = [name for name in contract.names if name in header]

    def value(name: str) -> Column:
        cell = F.col("cells")[header.index(name)]
        return _without_quotes(cell) if quotes else cell

    plucked = cut.select(
        *records.columns,
        F.coalesce("structure", F.when(~has_cells, WRONG_COLUMN_COUNT)).alias("structure"),
        *(F.when(has_cells, value(name)).alias(name) for name in there),
    )
    fielded = plucked.select(*records.columns, "structure", *(trimmed(F.col(name)).alias(name) for name in there))
    absent = F.lit(None).cast("string")

    def filled_or_null(name: str) -> Column:
        nulls = [F.col(name) != text for text in contract.null_values]
        return F.when(reduce(and_, nulls), F.col(name)) if nulls else F.col(name)

    filled = [filled_or_null(name) if name in there else absent for name in contract.names]
    return fielded.select(
        *records.columns,
        "structure",
        *(column.alias(name) for column, name in zip(filled, contract.names, strict=True)),
    )


def _cut_plain(records: DataFrame, columns: int) -> DataFrame:
    """Add `structure`, NULL, and `cells`: never more than one too many, however many commas there are."""
    cells = F.split(F.col("raw"), ",", columns + 1)
    return records.select("*", F.lit(None).cast("string").alias("structure"), cells.alias("cells"))


def _cut_quoted(records: DataFrame, contract: Contract) -> DataFrame:
    """Add `structure` and `cells`, as they are written, where some records have quotes."""
    record, ended = F.col("record"), F.expr(r"trim(TRAILING '\r' FROM raw)")
    doubled = _with_doubled_quotes(ended) if contract.quote_escape == "backslash" else ended
    after_mark = doubled.substr(F.lit(2), F.length(doubled))
    without_mark = F.when(doubled.startswith(BYTE_ORDER_MARK), after_mark).otherwise(doubled)
    cells = F.regexp_extract_all("record", F.lit(_CELL), F.lit(0))
    cut = records.select("*", without_mark.alias("record")).select("*", cells.alias("cells"))
    whole = F.array_join("cells", ",") == record  # else there is more between two commas than a cell
    odd_quotes = (F.octet_length(record) - F.octet_length(F.replace(record, F.lit('"'), F.lit("")))) % 2 == 1
    structure = F.when(~whole, F.when(odd_quotes, UNCLOSED_QUOTE).otherwise(BROKEN_QUOTES))
    return cut.select(*records.columns, structure.alias("structure"), "cells")


def _without_quotes(cell: Column) -> Column:
    within = cell.substr(F.lit(2), F.length(cell) - 2)
    return F.when(cell.startswith('"'), F.replace(within, F.lit('""'), F.lit('"'))).otherwise(cell)


def _with_doubled_quotes(raw: Column) -> Column:
    """A record with backslashes before its quotes, in RFC 4180's way. One without quotes stays as it is."""
    java = _UNESCAPED.replace("\\", "$")
    return F.when(raw.contains('"') & raw.contains("\\"), F.regexp_replace(raw, _ESCAPED, java)).otherwise(raw)


def spark_path(spark: SparkSession, uri: str) -> str:
    """Return a file's URI as `_metadata.file_path` shows it (percent-encoded once, by Hadoop's own rules)."""
    # pyspark has no public way to the file system's own encoding of names
    jvm: Any = spark._jvm  # noqa: SLF001
    path = jvm.org.apache.hadoop.fs.Path(uri if "://" in uri else f"file:{uri}")
    return str(path.toUri().toString())


def _file_records(file: SourceFile) -> Iterator[tuple[int, datetime, int, int, str]]:
    with storage_for(file.uri).open(file.uri) as stream:
        binary = cast(BinaryIO, gzip.GzipFile(fileobj=stream)) if file.uri.endswith(".gz") else stream
        with io.TextIOWrapper(binary, encoding="utf-8-sig", newline="\n") as text:
            for line_number, lines, raw in split_records(text, len(file.header), file.quote_escape):
                yield file.file_id, file.modified_at, line_number, lines, raw


def split_records(
    text: TextIO | Iterable[str], columns: int, quote_escape: str = "double"
) -> Iterator[tuple[int, int, str]]:
    """Yield (line number, physical lines, raw text) of each record after the header line.

    A record goes on over line ends while a quote is open, and is believed if it then has the right number of
    columns and no text behind the quote that closes a field, as a quote of another record would leave it. If not, its
    first line alone is a (bad) record and reading goes on at the next line.
    """
    waiting: list[tuple[int, str]] = []
    numbered = enumerate(text, start=1)
    next(numbered, None)
    double = _doubled if quote_escape == "backslash" else str
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
        if double(line).count('"') % 2:
            taken = _lines_of_quoted_record(waiting, numbered, columns, double)
        raw = "".join(part for _, part in waiting[:taken])
        blank = sum(1 for _, part in waiting[:taken] if not part.strip(WHITE_SPACE))
        del waiting[:taken]
        yield number, taken - blank, raw.rstrip("\r\n")


def _doubled(line: str) -> str:
    return re.sub(_ESCAPED, _UNESCAPED, line)


def _lines_of_quoted_record(
    waiting: list[tuple[int, str]], numbered: Iterator[tuple[int, str]], columns: int, double: Callable[[str], str]
) -> int:
    """Return how many lines the record at the head of `waiting` has, reading on as needed."""
    lines = [double(waiting[0][1])]
    quotes, length = lines[0].count('"'), len(lines[0])
    while quotes % 2 and len(lines) < _MAX_RECORD_LINES and length <= _MAX_RECORD_LENGTH:
        if len(lines) == len(waiting):
            entry = next(numbered, None)
            if entry is None:
                return 1
            waiting.append(entry)
        lines.append(double(waiting[len(lines)][1]))
        quotes += lines[-1].count('"')
        length += len(lines[-1])
    if quotes % 2:
        return 1
    try:
        rows = list(csv.reader(io.StringIO("".join(lines), newline=""), strict=True))
    except csv.Error:
        return 1
    return len(lines) if len(rows) == 1 and len(rows[0]) == columns else 1
