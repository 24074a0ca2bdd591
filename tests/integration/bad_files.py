"""Makers of the files in tests/bad_input_cases.toml: 60 good rows, then what the case adds, spoilt or not."""

from __future__ import annotations

# ruff: noqa: ARG001 - all makers are called alike
import gzip
import tomllib
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.integration.application import NewFile

TABLE = Path(__file__).parents[1] / "bad_input_cases.toml"
MODIFIED = datetime(2024, 6, 27, tzinfo=UTC)
GOOD_ROWS = 60
HEADERS = {
    "streams": "user_id,track_id,listen_time",
    "songs": "id,track_id,artists,track_name,popularity,duration_ms,track_genre",
    "users": "user_id,user_name,created_at",
}
GOOD_SONGS = """\
id,track_id,artists,track_name,popularity,duration_ms,track_genre
1,t0,Ann;Bob,Alpha,50,200001,pop
2,t0,Ann;Bob,Alpha,50,200001,rock
3,t1,Bob,"Beta, ""B"", or so",50,180000,pop
4,t2,Cy,Gamma,,240500,rock
5,"t,""0\"\"\",Di,Delta,10,100000,jazz
"""


@dataclass(frozen=True)
class FileCase:
    """One [[file]] of the table."""

    case: str
    name: str
    outcome: str
    alone: int
    maker: str = "rows"
    reason: str | None = None
    add: tuple[tuple[str, ...], ...] = ()
    waiting: int = 0
    duplicates: int = 0

    @property
    def dataset(self) -> str:
        return self.name.partition("/")[0]

    def file(self) -> NewFile:
        records = [*good_rows(self.dataset, self.name), *(record for record, *_ in self.add)]
        return NewFile(self.name, MAKERS[self.maker](HEADERS[self.dataset], records), MODIFIED)


def read_cases(kind: str) -> list[dict[str, Any]]:
    """The table's entries: `file` or `run`."""
    entries: list[dict[str, Any]] = tomllib.loads(TABLE.read_text("utf-8"))[kind]
    return entries


def file_cases() -> list[FileCase]:
    return [
        FileCase(**{**entry, "add": tuple(tuple(row) for row in entry.get("add", ()))}) for entry in read_cases("file")
    ]


def good_rows(dataset: str, name: str, first: int = 0) -> list[str]:
    """Rows of a file's own: no other file has the same listens, tracks or users."""
    own = 10_000 + zlib.crc32(name.encode()) * 1_000 + first
    if dataset == "streams":
        times = [f"2024-06-25 {row % 24:02d}:{row:02d}:07" for row in range(GOOD_ROWS)]
        return [f"{own + row},t{row % 3},{time}" for row, time in enumerate(times)]
    if dataset == "songs":
        return [f"{own + row},song {own + row},Ann;Bob,Song {row},{row},{1000 + row},pop" for row in range(GOOD_ROWS)]
    return [f"{own + row},Ann,2024-01-{1 + row % 30:02d}" for row in range(GOOD_ROWS)]


def text_of(header: str, records: list[str]) -> str:
    return "".join(f"{record}\n" for record in (header, *records))


def rows(header: str, records: list[str]) -> bytes:
    return text_of(header, records).encode()


def rows_57(header: str, records: list[str]) -> bytes:
    return rows(header, records[GOOD_ROWS - 57 :])


def rows_56(header: str, records: list[str]) -> bytes:
    return rows(header, records[GOOD_ROWS - 56 :])


def empty(header: str, records: list[str]) -> bytes:
    return b""


def blank_lines(header: str, records: list[str]) -> bytes:
    return b"\n  \r\n\t\n"


def gzip_of_nothing(header: str, records: list[str]) -> bytes:
    return gzip.compress(b"", mtime=0)


def header_only(header: str, records: list[str]) -> bytes:
    return rows(header, [])


def without_last_column(header: str, records: list[str]) -> bytes:
    return text_of(header, records).replace(header, header.rpartition(",")[0]).encode()


def upper_case_header(header: str, records: list[str]) -> bytes:
    return rows(header.upper(), records)


def without_header(header: str, records: list[str]) -> bytes:
    return rows(records[0], records[1:])


def column_twice(header: str, records: list[str]) -> bytes:
    return rows(f"{header},track_id", [f"{record},t1" for record in records])


def columns_swapped(header: str, records: list[str]) -> bytes:
    return rows(_reverse(header), [_reverse(record) for record in records])


def extra_column(header: str, records: list[str]) -> bytes:
    return rows(f"device,{header}", [f'"phone, ""old""",{record}' for record in records])


def with_bom(header: str, records: list[str]) -> bytes:
    return text_of(header, records).encode("utf-8-sig")


def with_crlf(header: str, records: list[str]) -> bytes:
    return text_of(header, records).replace("\n", "\r\n").encode()


def with_bom_and_crlf(header: str, records: list[str]) -> bytes:
    return text_of(header, records).replace("\n", "\r\n").encode("utf-8-sig")


def without_last_line_end(header: str, records: list[str]) -> bytes:
    return rows(header, records)[:-1]


def blank_between(header: str, records: list[str]) -> bytes:
    """Two blank lines after the good rows, and some at the end."""
    return rows(header, [*records[:GOOD_ROWS], "", " \t", *records[GOOD_ROWS:], "", ""])


def gzipped(header: str, records: list[str]) -> bytes:
    return gzip.compress(rows(header, records), mtime=0)


def gzip_of_two_members(header: str, records: list[str]) -> bytes:
    content = rows(header, records)
    return gzip.compress(content[:700], mtime=0) + gzip.compress(content[700:], mtime=0)


def truncated_gzip(header: str, records: list[str]) -> bytes:
    content = gzipped(header, records)
    return content[: len(content) * 2 // 3]


def gzip_with_wrong_checksum(header: str, records: list[str]) -> bytes:
    content = bytearray(gzipped(header, records))
    content[-8] ^= 0xFF
    return bytes(content)


def padded_gzip(header: str, records: list[str]) -> bytes:
    return gzipped(header, records) + b"\0" * 512


def one_latin1_byte(header: str, records: list[str]) -> bytes:
    content = bytearray(rows(header, records))
    content[-20] = 0xE9
    return bytes(content)


def utf16(header: str, records: list[str]) -> bytes:
    return text_of(header, records).encode("utf-16")


def all_bad(header: str, records: list[str]) -> bytes:
    return rows(header, ["?"] * len(records))


def twelve_wait(header: str, records: list[str]) -> bytes:
    return rows(header, _unknown_tracks(records, 12))


def thirteen_wait(header: str, records: list[str]) -> bytes:
    return rows(header, _unknown_tracks(records, 13))


def twin(header: str, records: list[str]) -> bytes:
    return rows(header, good_rows("streams", "twins"))


def _unknown_tracks(records: list[str], count: int) -> list[str]:
    return [record.replace(",t", ",unknown ") if row < count else record for row, record in enumerate(records)]


def _reverse(record: str) -> str:
    return ",".join(reversed(record.split(",")))


MAKERS: dict[str, Callable[[str, list[str]], bytes]] = {
    maker.__name__: maker
    for maker in (
        rows,
        rows_57,
        rows_56,
        empty,
        blank_lines,
        gzip_of_nothing,
        header_only,
        without_last_column,
        upper_case_header,
        without_header,
        column_twice,
        columns_swapped,
        extra_column,
        with_bom,
        with_crlf,
        with_bom_and_crlf,
        without_last_line_end,
        blank_between,
        gzipped,
        gzip_of_two_members,
        truncated_gzip,
        gzip_with_wrong_checksum,
        padded_gzip,
        one_latin1_byte,
        utf16,
        all_bad,
        twelve_wait,
        thirteen_wait,
        twin,
    )
}
