import csv
import gzip
import io
import os
import random
from itertools import product
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from kpi_common.contracts import Dataset, load_contract
from spark_app.ingest import csv_records as records
from spark_app.ingest.csv_records import Block, SourceFile, line_records, number_lines, quoted_records, split_records
from tests.unit.spark_app.builders import FILE_TIME, HEADERS, fields
from tests.unit.spark_app.builders import records as record_frame

STREAMS = HEADERS[Dataset.STREAMS]


def split(text: str, columns: int = 2) -> list[tuple[int, int, str]]:
    return list(split_records(io.StringIO(text, newline="\n"), columns))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("h,h", []),
        ("h,h\n", []),
        ("h,h\na,b\nc,d\n", [(2, 1, "a,b"), (3, 1, "c,d")]),
        ("h,h\na,b\nc,d", [(2, 1, "a,b"), (3, 1, "c,d")]),
        ("h,h\r\na,b\r\n", [(2, 1, "a,b")]),
        ("h,h\n\n  \na,b\n\t\r\n\nc,d\n\n", [(4, 1, "a,b"), (7, 1, "c,d")]),
        ('h,h\na,"b\nc"\nd,e\n', [(2, 2, 'a,"b\nc"'), (4, 1, "d,e")]),
        ('h,h\na,"b\r\nc"\r\n', [(2, 2, 'a,"b\r\nc"')]),
        ('h,h\na,"b\n\n \nc"\nd,e\n', [(2, 2, 'a,"b\n\n \nc"'), (6, 1, "d,e")]),
        ('h,h\na,"b ""c"" d"\n', [(2, 1, 'a,"b ""c"" d"')]),
    ],
    ids=[
        "nothing",
        "header without line end",
        "header only",
        "two rows",
        "last line end missing",
        "CRLF",
        "blank lines are no records",
        "line end in a field",
        "CRLF in a field",
        "blank lines in a field are not counted",
        "doubled quotes",
    ],
)
def test_records_are_cut_out(text: str, expected: list[tuple[int, int, str]]) -> None:
    assert split(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('h,h\na,"b\nc,d\ne,f\n', ['a,"b', "c,d", "e,f"]),
        ('h,h\na,"b\nc,d\ne,"f"\n', ['a,"b', "c,d", 'e,"f"']),
        # The quote that closes belongs to a record of its own: joined, there would be text behind it.
        ('h,h\na,"b\nc,"d\ne,f\n', ['a,"b', 'c,"d', "e,f"]),
        ('h,h\na,"b\n"c""\ne,f\n', ['a,"b', '"c""', "e,f"]),
        ('h,h\na,"b\nc"\n', ['a,"b\nc"']),
        ('h,h\na,"b\nc",d\n', ['a,"b', 'c",d']),
        ('h,h\na,b"x\n', ['a,b"x']),
    ],
)
def test_a_quote_that_is_never_closed_costs_one_line(text: str, expected: list[str]) -> None:
    assert [raw for _, _, raw in split(text)] == expected


def test_a_quote_is_not_followed_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_MAX_RECORD_LINES", 3)
    assert [raw for _, _, raw in split('h,h\na,"1\n2\n3"\n')] == ['a,"1\n2\n3"']
    assert [raw for _, _, raw in split('h,h\na,"1\n2\n3\n4"\n')] == ['a,"1', "2", "3", '4"']


def test_a_line_of_exotic_white_space_is_a_record() -> None:
    """As for the count of lines that the records are held against: only ASCII white space is blank."""
    assert [raw for _, _, raw in split("h,h\n\u00a0\n\u3000\n\x1c\n\f\v\na,b\n")] == ["\u00a0", "\u3000", "\x1c", "a,b"]


LINES = st.lists(st.text(alphabet=st.sampled_from('a,," \t\r\u00a0\x1c\x85\u2028'), max_size=6), max_size=12)


@given(lines=LINES, columns=st.integers(1, 3))
@example(lines=['"', "", '"'], columns=1)
@example(lines=['"', "\u00a0", '"'], columns=1)
def test_every_line_that_is_not_blank_belongs_to_exactly_one_record(lines: list[str], columns: int) -> None:
    body = "\n".join(lines)
    found = split(f"header\n{body}", columns)
    not_blank = [number for number, line in enumerate(lines, start=2) if line.strip(" \t\r\f\v")]
    covered = []
    for number, count, raw in found:
        parts = raw.split("\n")
        mine = [number + offset for offset, part in enumerate(parts) if part.strip(" \t\r\f\v")]
        assert len(mine) == count
        assert [lines[at - 2].rstrip("\r") for at in mine] == [p.rstrip("\r") for p in parts if p.strip(" \t\r\f\v")]
        covered += mine
    assert covered == not_blank


ROWS = st.lists(st.tuples(*[st.text(alphabet=st.sampled_from('a,"\n é'), max_size=5)] * 2), max_size=8)


@given(rows=ROWS)
def test_what_a_csv_writer_wrote_is_cut_out_as_it_was(rows: list[tuple[str, str]]) -> None:
    out = io.StringIO(newline="")
    writer = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerows([("h", "h"), *rows])
    found = [next(csv.reader(io.StringIO(raw, newline=""))) for _, _, raw in split(out.getvalue())]
    assert found == [list(row) for row in rows]


def test_plain_lines_are_cut_at_commas_and_trimmed(spark: SparkSession) -> None:
    assert fields(
        spark,
        STREAMS,
        "1,t1,2024-06-25 10:00:00",
        " 1 ,\tt1 ,2024-06-25 10:00:00\r",
        ",,",
        " , \t,\f\r",
        "1,t1",
        "1,t1,x,y",
        "",
        "1,ä é😀,x",
    ) == [
        (None, "1", "t1", "2024-06-25 10:00:00"),
        (None, "1", "t1", "2024-06-25 10:00:00"),
        (None, None, None, None),
        (None, None, None, None),
        ("wrong_column_count", None, None, None),
        ("wrong_column_count", None, None, None),
        ("wrong_column_count", None, None, None),
        (None, "1", "ä é😀", "x"),
    ]


def test_quoted_lines_are_read_by_the_rules_of_rfc_4180(spark: SparkSession) -> None:
    found = fields(
        spark,
        STREAMS,
        '"1","t,1","x"',
        '1," t ""1"" ",x\r',
        '1,"",x',
        '1,"t\n1",x',
        '1,"t1,x',
        '1,"t1",x,y',
        '"1,t1,x"',
        '1,"a\\",x',
    )
    assert found[0] == (None, "1", "t,1", "x")
    assert found[1] == (None, "1", 't "1"', "x")
    assert found[2] == (None, "1", None, "x")
    assert found[3] == (None, "1", "t\n1", "x")
    assert [structure for structure, *_ in found[4:7]] == ["unclosed_quote", "wrong_column_count", "wrong_column_count"]
    assert found[7] == (None, "1", "a\\", "x")


@pytest.mark.parametrize(
    ("raw", "structure"),
    [
        ('1,"a"b"c",x', "broken_quotes"),
        ('1,"x" y,z', "broken_quotes"),
        ('1,y "x",z', "broken_quotes"),
        ('1, "x",z', "broken_quotes"),
        ('1,"x" ,z', "broken_quotes"),
        ('"1" ,t,z', "broken_quotes"),
        ('1,5" and 7" vinyl,z', "broken_quotes"),
        ('1,"Say \\"Hi\\"",z', "broken_quotes"),
        ('1,"a,"b",c",z', "broken_quotes"),
        ('1,"a"",b",z"', "unclosed_quote"),
        ('"a"b"c",x', "broken_quotes"),
        ('1,"a,"",b",z', None),
        ('1,"""a""",z', None),
        ('1,"""","', "unclosed_quote"),
        ('1,"""",","', None),
        ('"","",""', None),
        ('1,"t\n""1""",x\r', None),
        ('1,"' + '""' * 50_000 + '",x', None),
        ('1,"' + '""' * 50_000 + 'a"b",x', "unclosed_quote"),
        ('1,"' + 'a""' * 50_000 + '"b"c",x', "broken_quotes"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_quotes_that_rfc_4180_does_not_allow_are_told_from_those_it_does(
    spark: SparkSession, raw: str, structure: str | None
) -> None:
    assert fields(spark, STREAMS, raw)[0][0] == structure


def test_a_record_is_cut_as_rfc_4180_says(spark: SparkSession) -> None:
    """The way that Spark cuts records, held against a grammar read character by character.

    For each text of at most seven characters, and for some longer ones.
    """
    alphabet, pick = 'a,"\n', random.Random(1)
    texts = ["".join(text) for length in range(8) for text in product(alphabet, repeat=length)]
    texts += ["".join(pick.choices(alphabet, k=pick.randint(8, 12))) for _ in range(20_000)]
    frame = spark.createDataFrame([(text,) for text in [*texts, '"a,"b",c"']], "raw string")
    cut = records._cut_quoted(frame, load_contract(Dataset.STREAMS))
    values = [records._without_quotes(F.col("cells")[place]) for place in range(13)]
    there = F.slice(F.array(*values), 1, F.size("cells"))
    found = cut.select("raw", F.when(F.isnull("structure"), there).alias("values")).collect()
    assert [row for row in found if row["values"] != _by_rfc_4180(row.raw)] == []


def _by_rfc_4180(text: str) -> list[str] | None:
    """The values of one record, None of a broken one; line ends are text, as records are cut at them before."""
    values, state = [""], "begin"
    for character in text:
        if state != "quoted" and character == ",":
            values.append("")
            state = "begin"
        elif character == '"':
            if state == "plain":
                return None
            values[-1] += '"' if state == "closed" else ""
            state = "closed" if state == "quoted" else "quoted"
        elif state == "closed":
            return None
        else:
            values[-1] += character
            state = "quoted" if state == "quoted" else "plain"
    return None if state == "quoted" else values


BACKSLASH = load_contract(Dataset.STREAMS).model_copy(update={"quote_escape": "backslash"})


def test_a_contract_may_say_that_backslashes_stand_before_quotes(spark: SparkSession) -> None:
    found = fields(
        spark,
        STREAMS,
        r'1,"Say \"Hi\"",x',
        r'1,"C:\\dir\\",x',
        r'1,"a ""b"" \"c\"",x',
        r"1,a\b \n\\,x",
        r'1,"a\",x',
        r'1,"a"b\"c",x',
        contract=BACKSLASH,
    )
    assert found == [
        (None, "1", 'Say "Hi"', "x"),
        (None, "1", "C:\\dir\\", "x"),
        (None, "1", 'a "b" "c"', "x"),
        (None, "1", r"a\b \n\\", "x"),
        ("unclosed_quote", None, None, None),
        ("unclosed_quote", None, None, None),
    ]


def test_records_with_backslashes_go_on_over_line_ends() -> None:
    text = 'h,h\n1,"a \\"b\nc\\" d"\n2,"e\\\\"\n3,x\n'
    found = list(split_records(io.StringIO(text, newline="\n"), 2, "backslash"))
    assert found == [(2, 2, '1,"a \\"b\nc\\" d"'), (4, 1, '2,"e\\\\"'), (5, 1, "3,x")]


def test_raw_text_stays_as_it_was_written(spark: SparkSession) -> None:
    raw = r'1,"Say \"Hi\"",x'
    frame = records.split_fields(record_frame(spark, raw), BACKSLASH, STREAMS)
    assert [row["raw"] for row in frame.collect()] == [raw]


def test_null_values_are_those_of_the_contract(spark: SparkSession) -> None:
    assert fields(spark, STREAMS, r"\N, \N ,NULL", r'"\N","",x') == [
        (None, None, None, "NULL"),
        (None, None, None, "x"),
    ]
    own = load_contract(Dataset.STREAMS).model_copy(update={"null_values": ("-",)})
    assert fields(spark, STREAMS, r"-,,\N", contract=own) == [(None, None, "", r"\N")]


def test_a_record_is_not_followed_over_more_than_a_line_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_MAX_RECORD_LENGTH", 100)
    part = "x" * 60 + "\n"
    assert [raw[:3] for _, _, raw in split(f'h,h\na,"{part}y"\n')] == ['a,"']
    assert [raw[:3] for _, _, raw in split(f'h,h\na,"{part}{part}y"\n')] == ['a,"', "xxx", 'y"']


def test_fields_go_by_the_names_of_the_header(spark: SparkSession) -> None:
    header = ("x", "listen_time", "user_id", "y", "track_id")
    for quote in ("", '"'):
        assert fields(spark, header, f"no,{quote}now{quote},1,no,t1") == [(None, "1", "t1", "now")]


def test_optional_columns_that_a_file_lacks_are_null(spark: SparkSession) -> None:
    users = load_contract(Dataset.USERS)
    for raw in ("7,Ann", '"7","Ann"'):
        assert fields(spark, ("user_id", "user_name"), raw, contract=users) == [(None, "7", "Ann", None, None, None)]


def test_a_header_of_one_column_is_enough(spark: SparkSession) -> None:
    users = load_contract(Dataset.USERS)
    (one, *_), (two, *_) = fields(spark, ("user_id",), "7", "7,8", contract=users)
    assert (one, two) == (None, "wrong_column_count")


def a_source(path: Path, data: bytes, file_id: int, header: tuple[str, ...] = STREAMS) -> SourceFile:
    path.write_bytes(data)
    return SourceFile(file_id, str(path), FILE_TIME, header)


def blocks_of(frame: DataFrame) -> dict[int, dict[int, Block]]:
    counted = frame.groupBy("file_id", "block").agg(F.min("row").alias("first"), F.count("*").alias("lines"))
    blocks: dict[int, dict[int, Block]] = {}
    for row in counted.collect():
        blocks.setdefault(row["file_id"], {})[row["block"]] = Block(row["first"], row["lines"])
    return blocks


NAMES = ("plain.csv", "a b=c%20é+#.csv", "{x}[y]*?.csv", "back\\slash.csv")


def test_lines_of_several_files_keep_their_file_whatever_its_name(spark: SparkSession, tmp_path: Path) -> None:
    sources = [a_source(tmp_path / name, f"h\nrow of {number}\n".encode(), number) for number, name in enumerate(NAMES)]
    found = line_records(spark, sources).where("raw != 'h'").orderBy("file_id").collect()
    assert [(row["file_id"], row["raw"], row["lines"], row["block"]) for row in found] == [
        (number, f"row of {number}", 1, 0) for number in range(len(NAMES))
    ]


def test_lines_are_numbered_as_in_an_editor_however_a_file_is_split(spark: SparkSession, tmp_path: Path) -> None:
    texts = {number: [f"{number}-{line}" if line % 4 else " " for line in range(1, 60)] for number in range(3)}
    sources = [
        a_source(tmp_path / f"{number} é.csv", "\n".join(lines).encode(), number) for number, lines in texts.items()
    ]
    before = spark.conf.get("spark.sql.files.maxPartitionBytes")
    spark.conf.set("spark.sql.files.maxPartitionBytes", "100")
    try:
        frame = line_records(spark, sources)
        assert frame.rdd.getNumPartitions() > len(sources)
        found = number_lines(frame.where("lines > 0"), blocks_of(frame)).collect()
    finally:
        spark.conf.set("spark.sql.files.maxPartitionBytes", before or "128m")
    expected = {
        (file_id, at, line) for file_id, lines in texts.items() for at, line in enumerate(lines, 1) if line != " "
    }
    assert len(found) == len(expected)
    assert {(row["file_id"], row["line_number"], row["raw"]) for row in found} == expected


def test_songs_and_users_are_read_over_line_ends_packed_or_not(spark: SparkSession, tmp_path: Path) -> None:
    text = '\ufeffid,name\r\n1,"a\r\nb"\r\n\r\n2,é\r\n'.encode()
    sources = [
        a_source(tmp_path / "a b.csv", text, 1, ("id", "name")),
        a_source(tmp_path / "c.csv.gz", gzip.compress(text), 2, ("id", "name")),
    ]
    found = quoted_records(spark, sources).orderBy("file_id", "line_number").collect()
    once = [(2, 2, '1,"a\r\nb"'), (5, 1, "2,é")]
    assert [(row["line_number"], row["lines"], row["raw"]) for row in found] == once * 2
    assert [row["file_id"] for row in found] == [1, 1, 2, 2]
    assert os.environ["TZ"] == "UTC"
    assert {row["file_modified_at"] for row in found} == {FILE_TIME.replace(tzinfo=None)}
