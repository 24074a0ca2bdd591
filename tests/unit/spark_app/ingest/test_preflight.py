import gzip
import hashlib
import io
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from kpi_common import preflight as common
from kpi_common.contracts import Dataset, load_contract
from kpi_common.preflight import FileLimits, FileScan, shown_names
from spark_app.config.settings import Settings
from spark_app.ingest.preflight import Inspection, inspect_file, inspect_files, rejection_hint
from spark_app.run.files import InputFile
from tests.unit.spark_app.builders import settings

HEADER = b"user_id,track_id,listen_time\n"
ROW = b"1,t1,2024-06-25 10:00:00\n"
BOM = b"\xef\xbb\xbf"
BLANK = b" \t\r\n\f\v"


def set_chunks(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(common, "CHUNK", size)
    monkeypatch.setattr(common, "PACKED_CHUNK", size)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read seven bytes at a time, so that chunks end everywhere."""
    set_chunks(monkeypatch, 7)


def limited(**limits: int) -> Settings:
    """Settings with limits of one's own, below what is allowed too, so that few bytes reach them."""
    return settings().model_copy(update=limits)


def inspect(tmp_path: Path, data: bytes, name: str = "streams/a.csv", **limits: int) -> Inspection:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    dataset = Dataset(name.partition("/")[0])
    file = InputFile(dataset, name, str(path), len(data), datetime(2024, 6, 26, tzinfo=UTC), None)
    return inspect_file(file, limited(**limits))


def no_spark() -> NoReturn:
    raise AssertionError("small files need no Spark")


def test_a_good_file_gives_its_header_its_lines_and_its_md5(tmp_path: Path) -> None:
    found = inspect(tmp_path, HEADER + ROW * 3)
    assert (found.reason, found.lines) == (None, 3)
    assert found.header == ("user_id", "track_id", "listen_time")
    assert found.file.etag == hashlib.md5(HEADER + ROW * 3, usedforsecurity=False).hexdigest()


def test_the_md5_of_an_archive_is_that_of_its_packed_bytes(tmp_path: Path) -> None:
    packed = gzip.compress(HEADER + ROW * 3)
    found = inspect(tmp_path, packed, "streams/a.csv.gz")
    assert (found.reason, found.lines) == (None, 3)
    assert found.file.etag == hashlib.md5(packed, usedforsecurity=False).hexdigest()


def test_an_etag_that_is_known_is_kept(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(HEADER)
    file = InputFile(Dataset.STREAMS, "streams/a.csv", str(tmp_path / "a.csv"), 1, datetime(2024, 1, 1), "of-s3")
    assert inspect_file(file, settings()).file.etag == "of-s3"


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (HEADER, 0),
        (HEADER.rstrip(), 0),
        (HEADER + ROW.rstrip(), 1),
        (HEADER + b"\n\n" + ROW + b"\n" + ROW, 2),
        (HEADER + b" \t \r\n" + ROW + b"   ", 1),
        (HEADER + b"  \n \n   \n    \n     \n      \n       \n        \n", 0),
        (HEADER.replace(b"\n", b"\r\n") + ROW.replace(b"\n", b"\r\n") * 2, 2),
        (BOM + HEADER + ROW, 1),
        (HEADER + "1,ä€😀,x\n".encode() * 4, 4),
        (HEADER + ROW + b" " * 20 + ROW, 2),
    ],
)
def test_lines_that_are_not_blank_are_counted(tmp_path: Path, data: bytes, lines: int) -> None:
    found = inspect(tmp_path, data)
    assert (found.reason, found.lines) == (None, lines)


LINE = st.text(alphabet=st.sampled_from('a,"é \t\r\f\v\u00a0\u3000\u2028\x1c\x85')).map(str.encode)


@given(lines=st.lists(LINE), chunk=st.integers(1, 9), line_end=st.booleans())
@example(lines=[b"", b"", b" ", b"a"], chunk=1, line_end=False)
def test_the_count_is_that_of_an_independent_split(lines: list[bytes], chunk: int, line_end: bool) -> None:
    data = HEADER + b"\n".join(lines) + (b"\n" if line_end else b"")
    scan = common.FileScan(load_contract(Dataset.STREAMS), settings().file_limits)
    for start in range(0, len(data), chunk):
        scan.feed(data[start : start + chunk])
    scan.finish()
    assert scan.reason is None
    assert scan.lines == sum(1 for line in data.split(b"\n")[1:] if line.strip(BLANK))


@pytest.mark.parametrize(
    ("data", "reason", "message"),
    [
        (b"", "empty_file", "the file is empty"),
        (BOM, "empty_file", "the file is empty"),
        (b"\n" + HEADER + ROW, "empty_file", "the first line is blank"),
        (
            b"user_id,track_id\n1,t\n",
            "missing_column",
            "lacks required columns: `listen_time`; it has: user_id, track_id",
        ),
        (ROW, "missing_column", "`user_id`, `track_id`, `listen_time`"),
        (b"User_ID,track_id,listen_time\n", "missing_column", "(there is `User_ID`: case matters)"),
        (b"user_id,track_id,listen_time,track_id\n", "duplicate_column", "names a column twice: track_id"),
        (b'"user_id,track_id,listen_time\n', "missing_column", "the header can't be read"),
        (b'user_id,track_id,listen_time,5" vinyl\n', "missing_column", "the header can't be read"),
        ("user_id\u00a0,track_id,listen_time\n".encode(), "missing_column", "lacks required columns: `user_id`"),
        ("\u2003user_id,track_id,listen_time\n".encode(), "missing_column", "lacks required columns: `user_id`"),
        (b"user_id;track_id;listen_time\n", "missing_column", "its columns are separated by `;`"),
        (HEADER.replace(b",", b"\t"), "missing_column", "its columns are separated by tabs"),
        (b"7,Anna Smith,1990-01-01\n", "missing_column", "3 fields that do not look like names: is it a row of data?"),
        (HEADER.replace(b"\n", b"\r") + ROW.replace(b"\n", b"\r"), "missing_column", "its lines end with CR alone"),
        ((HEADER + ROW * 9).replace(b"\n", b"\r") + b"\n", "missing_column", "its lines end with CR alone"),
        (HEADER + b"1,t\xff,x\n", "not_utf8", "byte 0xff about 32 bytes into it"),
        (HEADER + "1,é,x\n".encode("latin-1"), "not_utf8", "not UTF-8 text: byte 0xe9"),
        (HEADER + b"1,t\xc3", "not_utf8", "not UTF-8 text: byte 0xc3"),
        (HEADER.decode().encode("utf-16"), "not_utf8", "byte 0xff"),
    ],
)
def test_a_file_that_can_not_be_used_is_rejected_with_a_reason(
    tmp_path: Path, data: bytes, reason: str, message: str
) -> None:
    found = inspect(tmp_path, data)
    assert found.reason == reason
    assert message in (found.message or "")
    assert found.file.etag == hashlib.md5(data, usedforsecurity=False).hexdigest()


@pytest.mark.parametrize(
    ("header", "names"),
    [
        (b" user_id , track_id,listen_time \r\n", ("user_id", "track_id", "listen_time")),
        (b"listen_time,x,user_id,track_id\n", ("listen_time", "x", "user_id", "track_id")),
        (b'"user_id","track_id","listen_time"\n', ("user_id", "track_id", "listen_time")),
        (BOM + b'"user_id","track_id","listen_time"\n', ("user_id", "track_id", "listen_time")),
        (b'user_id,track_id,listen_time,"a, b"\n', ("user_id", "track_id", "listen_time", "a, b")),
        (b"user_id,track_id,listen_time,x,x\n", ("user_id", "track_id", "listen_time", "x", "x")),
    ],
)
def test_columns_go_by_the_names_of_the_header(tmp_path: Path, header: bytes, names: tuple[str, ...]) -> None:
    found = inspect(tmp_path, header + ROW)
    assert (found.reason, found.header, found.lines) == (None, names, 1)


def test_a_header_of_very_many_columns_is_refused(tmp_path: Path) -> None:
    """To plan for 25,000 columns takes more memory than a driver has, and would end the run for all other files."""
    unused = "".join(f",c{number}" for number in range(997)).encode()
    assert inspect(tmp_path, HEADER.rstrip() + unused + b"\n").reason is None
    found = inspect(tmp_path, HEADER.rstrip() + unused + b",one more\n")
    assert found.reason == "too_many_columns"
    assert "1,001 columns" in (found.message or "")


def test_a_header_without_end_is_given_up(tmp_path: Path) -> None:
    found = inspect(tmp_path, b"x" * 200, max_line_bytes=100)
    assert found.reason == "missing_column"
    assert "no line end" in (found.message or "")


@pytest.mark.parametrize("line_end", [b"\n", b""])
@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_a_line_that_would_fill_the_memory_is_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line_end: bytes, chunk: int
) -> None:
    set_chunks(monkeypatch, chunk)
    short = inspect(tmp_path, HEADER + (b"x" * 80 + b"\n") * 5 + b" " * 60 + line_end, max_line_bytes=100)
    assert (short.reason, short.lines) == (None, 5)
    data = HEADER + ROW + b"\n" + b"x" * 220 + line_end + ROW
    found = inspect(tmp_path, data, max_line_bytes=100)
    assert found.reason == "line_too_long"
    assert "line 4 has more than 100 bytes (max_line_bytes)" in (found.message or "")
    assert found.file.etag == hashlib.md5(data, usedforsecurity=False).hexdigest()
    assert inspect(tmp_path, HEADER + b" " * 220 + line_end, max_line_bytes=100).reason == "line_too_long"


# Random enough that the archive is longer than a few chunks.
PACKED = gzip.compress(HEADER + b"".join(b"%d,t%d,2024-06-25 10:00:00\n" % (i * 7919, i) for i in range(50)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        HEADER + ROW,
        PACKED[:8],
        PACKED[: len(PACKED) // 2],
        PACKED[:-1],
        PACKED[:20] + bytes([PACKED[20] ^ 0xFF]) + PACKED[21:],
        PACKED[:-8] + b"\0\0\0\0" + PACKED[-4:],
        PACKED + b"garbage",
        PACKED + b"\0" * 512,
        PACKED + b"\0" + PACKED,
    ],
    ids=[
        "empty",
        "plain text",
        "cut in the header",
        "half",
        "last byte gone",
        "flipped bits",
        "checksum",
        "garbage",
        "zeros at the end",
        "a zero between members",
    ],
)
def test_a_damaged_archive_is_rejected(tmp_path: Path, data: bytes) -> None:
    found = inspect(tmp_path, data, "streams/a.csv.gz")
    assert found.reason == ("empty_file" if data == b"" else "unreadable_gzip")


def test_a_damaged_archive_is_told_as_such_even_if_its_text_is_bad_too(tmp_path: Path) -> None:
    packed = gzip.compress(b"no,such,header\n" + b"".join(b"%d\n" % (i * 7919) for i in range(99)))
    assert inspect(tmp_path, packed[:-20], "streams/a.csv.gz").reason == "unreadable_gzip"


def test_an_archive_of_several_members_is_read_whole(tmp_path: Path) -> None:
    found = inspect(tmp_path, gzip.compress(HEADER + ROW) + gzip.compress(ROW), "streams/a.csv.gz")
    assert (found.reason, found.lines) == (None, 2)


@pytest.mark.parametrize("chunk", [1, 7, 30, 10_000])
def test_an_archive_is_unpacked_in_pieces(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    set_chunks(monkeypatch, chunk)
    content = HEADER + b"0" * 500
    packed = gzip.compress(content) + gzip.compress(b"") + gzip.compress(ROW)
    blocks = list(common.unpacked(iter(partial(io.BytesIO(packed).read, chunk), b""), FileLimits()))
    assert b"".join(blocks) == content + ROW
    assert max(map(len, blocks)) <= chunk


def test_a_name_that_spark_passes_over_is_rejected(tmp_path: Path) -> None:
    assert inspect(tmp_path, HEADER + ROW, "streams/_a.csv").reason == "hidden_name"


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("s3://nowhere/raw/streams//a.csv", "unreadable_name"),
        ("s3://nowhere/raw/streams/*12:30.csv", "unreadable_name"),
        ("/nowhere/raw/streams/a:b\\c.csv", "unreadable_name"),
        ("/nowhere/raw [1:2]/streams/a.csv", "unreadable_name"),
    ],
)
def test_a_name_that_spark_can_not_open_is_rejected(uri: str, reason: str) -> None:
    when = datetime(2024, 6, 26, tzinfo=UTC)
    file = InputFile(Dataset.STREAMS, "streams" + uri.partition("/streams")[2], uri, 1, when, "etag")
    found = inspect_file(file, settings())
    assert (found.reason, found.file.etag) == (reason, "etag")


@pytest.mark.parametrize("name", ["12:30:00.csv", "{x}[y]*?.csv", "back\\slash.csv"])
def test_other_odd_names_are_names(tmp_path: Path, name: str) -> None:
    assert inspect(tmp_path, HEADER + ROW, f"streams/{name}").reason is None


def test_each_dataset_is_held_against_its_own_contract(tmp_path: Path) -> None:
    assert inspect(tmp_path, b"user_id,user_name\n1,x\n", "users/u.csv").reason is None
    assert inspect(tmp_path, b"user_id,user_name\n1,x\n", "songs/s.csv").reason == "missing_column"


def test_large_inputs_are_inspected_by_spark_with_the_same_findings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spark: SparkSession
) -> None:
    monkeypatch.undo()
    files = []
    for number, data in enumerate([HEADER + ROW * 2, b"", HEADER + b"\xff\n"]):
        files.append(inspect(tmp_path, data, f"streams/{number}.csv").file)
    on_driver = inspect_files(files, no_spark, settings())
    assert [found.reason for found in on_driver] == [None, "empty_file", "not_utf8"]
    assert on_driver[0].lines == 2
    assert inspect_files(files, lambda: spark, settings("inspect_on_driver_bytes=0")) == on_driver


def test_a_row_of_persons_in_the_place_of_the_header_is_not_shown(tmp_path: Path) -> None:
    found = inspect(tmp_path, b"7,Anna Smith,34,NL,2024-01-01\n", "users/u.csv")
    assert found.reason == "missing_column"
    assert "Anna" not in (found.message or "")


def test_messages_stay_short_whatever_a_header_holds(tmp_path: Path) -> None:
    found = inspect(tmp_path, ",".join("x" * 2000 for _ in range(100)).encode() + b"\n")
    assert found.reason == "missing_column"
    assert len(found.message or "") <= 1000
    assert shown_names(["a", "b" * 101] + ["c"] * 40) == f"a, {'b' * 100}…, {', '.join('c' * 28)} and 12 more"


def test_line_ends_without_lines_are_given_up(tmp_path: Path) -> None:
    limits = {"max_blank_lines": 5}
    assert inspect(tmp_path, HEADER + b"\n" * 5, **limits).reason is None
    assert inspect(tmp_path, HEADER + (ROW + b"\n\n") * 10, **limits).reason is None
    found = inspect(tmp_path, HEADER + ROW + b"\n" * 60, **limits)
    assert found.reason == "too_many_blank_lines"
    assert "max_blank_lines" in (found.message or "")


def test_an_archive_may_not_unpack_into_more_than_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = gzip.compress(HEADER + ROW * 1000)
    found = inspect(tmp_path, packed, "streams/a.csv.gz", max_unpacked_bytes=10_000)
    assert (found.reason, found.lines < 1000) == ("unpacks_too_large", True)
    assert "10,000 bytes (max_unpacked_bytes)" in (found.message or "")
    assert found.file.etag == hashlib.md5(packed, usedforsecurity=False).hexdigest()

    assert inspect(tmp_path, packed, "streams/a.csv.gz", max_compression_ratio=2).reason is None, "small files may"
    monkeypatch.setattr(common, "_FREE_BYTES", 1000)
    found = inspect(tmp_path, packed, "streams/a.csv.gz", max_compression_ratio=2)
    assert found.reason == "unpacks_too_large"
    assert "2 times as many (max_compression_ratio)" in (found.message or "")
    assert inspect(tmp_path, packed, "streams/a.csv.gz", max_compression_ratio=1000).reason is None


def test_very_many_archives_in_one_file_are_given_up(tmp_path: Path) -> None:
    empty, rows = gzip.compress(b""), gzip.compress(HEADER + ROW)
    assert inspect(tmp_path, empty * 2 + rows, "streams/a.csv.gz", max_gzip_members=3).lines == 1
    found = inspect(tmp_path, empty * 3 + rows, "streams/a.csv.gz", max_gzip_members=3)
    assert found.reason == "too_many_gzip_members"
    assert "more than 3 gzip members (max_gzip_members)" in (found.message or "")


@pytest.mark.parametrize("what", ["100 MB of line ends", "200,000 empty archives"])
def test_an_archive_without_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.undo()
    packed = gzip.compress(b"") * 200_000 if "empty" in what else gzip.compress(HEADER + b"\n" * 100_000_000)
    assert inspect(tmp_path, packed, "streams/a.csv.gz").reason is not None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", False),
        ("Beyonc\u00e9", False),
        ("Beyonce\u0301", True),
        ("\u1112\u1161\u11ab", True),
        ("\u00c5", False),
        ("\u212b", True),
        ("q\u0307\u0323", True),
    ],
)
@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_text_that_is_not_composed_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: bool, chunk: int
) -> None:
    set_chunks(monkeypatch, chunk)
    data = f"track_id,artists,track_name,duration_ms,track_genre\nt,{text},x,1,pop\n".encode()
    assert inspect(tmp_path, data, "songs/s.csv").decomposed is expected
    assert not inspect(tmp_path, HEADER + f"1,{text},x\n".encode()).decomposed, "ids of tracks stay as they are"


def test_the_reason_names_the_setting_that_reads_the_quotes_of_most_lines(tmp_path: Path) -> None:
    data = HEADER + b'"1","a\\"b\\"","x"\n' * 3 + b'"1","a","x"\n' + ROW
    found = inspect(tmp_path, data)
    assert (found.quotes, found.quoted_lines, found.lines) == (True, 4, 5)
    contract = load_contract(Dataset.STREAMS)
    broken = {"broken_quotes": 3}
    assert 'quote_escape = "backslash" in conf/contracts/streams.toml' in rejection_hint(found, broken, contract)
    assert rejection_hint(found, {"broken_quotes": 2}, contract) == ""
    assert rejection_hint(found, broken, contract.model_copy(update={"quote_escape": "backslash"})) == ""


def test_the_reason_names_the_time_of_the_file_where_listens_are_later(tmp_path: Path) -> None:
    hint = rejection_hint(inspect(tmp_path, HEADER + ROW), {"in_future": 30}, load_contract(Dataset.STREAMS))
    assert hint.endswith("the time of the file itself, which is 2024-06-26T00:00:00+00:00")


def test_the_limits_of_the_pipeline_are_those_of_the_settings() -> None:
    assert settings().file_limits == FileLimits()


@pytest.mark.parametrize("compressed", [True, False])
def test_a_look_at_the_header_alone_reads_no_more_than_that(*, compressed: bool) -> None:
    def blocks(data: bytes) -> Iterator[bytes]:
        if compressed:
            yield gzip.compress(b"")  # parts that were joined, of which the first was empty
            yield gzip.compress(data)
        else:
            yield data[:5]
            yield data[5:]
        raise AssertionError("the header is read, and more is asked for")

    def message(data: Iterable[bytes]) -> str | None:
        scan = FileScan(load_contract(Dataset.STREAMS), FileLimits())
        scan.read(data, compressed=compressed, header_only=True)
        return scan.message

    assert message(blocks(HEADER + ROW)) is None
    assert "lacks required columns: `listen_time`" in (message(blocks(b"user_id,track_id\n")) or "")
    assert message([]) == "the file is empty"
    if compressed:
        assert "damaged or cut off" in (message([HEADER]) or "")
