"""Cut a file into records, without a word about what they mean."""

from __future__ import annotations

import codecs
import csv
import re
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass

ASCII_SPACE = " \t\n\r\f\v"
BYTE_ORDER_MARK = "\ufeff"
NULL_VALUES = ("", "\\N")
NO_CHARACTER = "\udc0d"  # can't be in UTF-8 text
MOST_COLUMNS = 1000
LONGEST_LINE = 1024 * 1024
csv.field_size_limit(2**31 - 1)


class FileRejectedError(Exception):
    """The whole file can't be taken; `reason` is the code."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Record:
    """One record: `problem` is set, and `values` empty, when it can't be told apart into the header's columns."""

    line_number: int
    raw: str
    values: dict[str, str]
    problem: str | None = None


@dataclass(frozen=True)
class Table:
    columns: tuple[str, ...]
    records: tuple[Record, ...]


def read_table(
    name: str, content: bytes, required: Collection[str], optional: Collection[str], *, multi_line: bool
) -> Table:
    """Header and records of one CSV file; columns of other names count for nothing. Raises FileRejectedError."""
    text, cut_off = _decode(_unpack(content) if name.endswith(".gz") else content)
    lines = text.removeprefix(BYTE_ORDER_MARK).split("\n")
    if len(lines) > 1 or not cut_off:  # the header is looked at before the end of the file
        columns = _header(lines[0], required, optional)
    if cut_off:
        raise FileRejectedError("not_utf8")
    if any(len(line) > LONGEST_LINE // 4 and len(line.encode()) > LONGEST_LINE for line in lines[1:]):
        raise FileRejectedError("line_too_long")
    read = _records_over_lines if multi_line else _records_of_lines
    return Table(columns, tuple(read(lines, columns)))


def _header(line: str, required: Collection[str], optional: Collection[str]) -> tuple[str, ...]:
    if _is_blank(line):
        raise FileRejectedError("empty_file")
    readable = _balanced(line) and "\r" not in re.sub('"[^"]*"', "", line).rstrip(ASCII_SPACE)
    columns = tuple(_fields(line.strip(ASCII_SPACE), strict=True) or ()) if readable else ()
    if not set(required) <= set(columns):
        raise FileRejectedError("missing_column")
    if any(columns.count(column) > 1 for column in (*required, *optional)):
        raise FileRejectedError("duplicate_column")
    if len(columns) > MOST_COLUMNS:
        raise FileRejectedError("too_many_columns")
    return columns


def _decode(content: bytes) -> tuple[str, bool]:
    """The text, and whether it ends within a character."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        text = decoder.decode(content)
    except UnicodeDecodeError as error:
        raise FileRejectedError("not_utf8") from error
    return text, decoder.getstate()[0] != b""


def _unpack(content: bytes) -> bytes:
    """The archives one after the other; nothing else may stand behind them."""
    unpacked = b""
    while content:
        archive = zlib.decompressobj(wbits=31)
        try:
            unpacked += archive.decompress(content)
        except zlib.error as error:
            raise FileRejectedError("unreadable_gzip") from error
        if not archive.eof:
            raise FileRejectedError("unreadable_gzip")
        content = archive.unused_data
    return unpacked


def _records_of_lines(lines: list[str], columns: tuple[str, ...]) -> Iterator[Record]:
    for number, line in enumerate(lines[1:], start=2):
        if not _is_blank(line):
            yield _record(number, line, columns)


def _records_over_lines(lines: list[str], columns: tuple[str, ...]) -> Iterator[Record]:
    """As above, but a quoted field may go on in the next lines."""
    position = 1
    while position < len(lines):
        line, number = lines[position], position + 1
        position += 1
        if _is_blank(line):
            continue
        if _balanced(line):
            yield _record(number, line, columns)
            continue
        end = _end_of_record(lines, position)
        whole = "\n".join(lines[number - 1 : end])
        # Text behind the quote that closes: it may belong to another record, so these lines are not joined.
        fields = _fields(whole, strict=True) if end > position else None
        if fields is not None and len(fields) == len(columns):
            position = end
            yield _record(number, whole, columns)
        else:
            yield Record(number, line.rstrip("\r"), {}, "unclosed_quote")


def _end_of_record(lines: list[str], position: int) -> int:
    """One past the first line that closes the quote left open before `position`; `position` if none does."""
    for end in range(position, len(lines)):
        if not _balanced(lines[end]):
            return end + 1
    return position


def _record(number: int, line: str, columns: tuple[str, ...]) -> Record:
    raw = line.rstrip("\r")
    if not _balanced(line):
        return Record(number, raw, {}, "unclosed_quote")
    if not _is_rfc_4180(raw):
        return Record(number, raw, {}, "broken_quotes")
    fields = _fields(line)
    if fields is None or len(fields) != len(columns):
        return Record(number, raw, {}, "wrong_column_count")
    values = ("" if field in NULL_VALUES else field for field in fields)
    return Record(number, raw, dict(zip(columns, values, strict=True)))


def _is_rfc_4180(record: str) -> bool:
    """A field is quoted as a whole or holds no quote; within one that is, quotes are doubled."""
    rest = record
    while True:
        if rest.startswith('"'):
            end = 1
            while rest[end : end + 2] == '""' or rest[end : end + 1] not in {'"', ""}:
                end += 2 if rest[end] == '"' else 1
            if end >= len(rest):
                return False
            end += 1
        else:
            end = rest.find(",") if "," in rest else len(rest)
            if '"' in rest[:end]:
                return False
        if end == len(rest):
            return True
        if rest[end] != ",":
            return False
        rest = rest[end + 1 :]


def _fields(text: str, *, strict: bool = False) -> list[str] | None:
    """The trimmed fields, or nothing when the text isn't exactly one CSV record (strict: or has text behind quotes)."""
    # A carriage return within a line is a character like others; to the csv module it would be a line end.
    hidden = text.rstrip("\r").replace("\r", NO_CHARACTER)
    try:
        (row,) = csv.reader([hidden], doublequote=True, strict=strict)
    except csv.Error:  # a line end outside quotes
        return None
    return [value.replace(NO_CHARACTER, "\r").strip(ASCII_SPACE) for value in row]


def _balanced(line: str) -> bool:
    return line.count('"') % 2 == 0


def _is_blank(line: str) -> bool:
    return not line.strip(ASCII_SPACE)
