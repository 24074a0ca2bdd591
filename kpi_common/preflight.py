"""A look at the bytes of a CSV file: is it UTF-8, what is its header, how many lines, does it keep within its limits.

Plain Python over blocks of bytes: the application looks at whole files with it, the pipeline at headers
(`FileScan.read_file`). What it takes is bounded: a file that unpacks into too much, or has a line too long, is given up
there.
"""

from __future__ import annotations

import codecs
import csv
import re
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

from kpi_common.contracts import FIRST_NOT_WHITE, WHITE_SPACE, Contract
from kpi_common.errors import StorageError, refuses_one_file, shortened

if TYPE_CHECKING:
    import hashlib

CHUNK = 256 * 1024  # what a core keeps at hand: larger blocks take twice as long a byte
PACKED_CHUNK = 16 * 1024  # of it, what is left is copied at the end of each archive in a file
_MAX_COLUMNS = 1000  # each takes its time to plan, and some memory of the driver
_FREE_BYTES = 64 * 1024 * 1024  # unpacked, whatever the ratio
_MAX_NAME, _SHOWN_NAMES = 100, 30
_SEQUENCE = 32  # characters before a block to which its first accents may belong
_BOM = codecs.BOM_UTF8
_GZIP = 16 + zlib.MAX_WBITS
_FIRST_NOT_WHITE = FIRST_NOT_WHITE.encode()
_SEPARATORS = {";": "`;`", "\t": "tabs", "|": "`|`"}
UNREADABLE_FILE = "unreadable_file"
_PATTERN_CHARACTERS = set("{}[]*?\\")
_COLUMN_NAME = re.compile(r"[^\W\d][\w .()#/-]*")


@dataclass(frozen=True)
class FileLimits:
    """Limits of one file, as conf/settings/default.toml has and explains them."""

    max_line_bytes: int = 1024 * 1024
    max_blank_lines: int = 10_000
    max_unpacked_bytes: int = 64 * 1024**3
    max_compression_ratio: int = 200
    max_gzip_members: int = 100_000


class LimitError(Exception):
    """An archive unpacks into more than is allowed: `reason` is the code."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def unpacked(blocks: Iterable[bytes], limits: FileLimits) -> Iterator[bytes]:
    """Unpack gzip in pieces, as strictly as Spark does: after an archive nothing may follow but another one.

    (Python's own reader takes zeros behind an archive; Spark's ends the whole job there.)

    Raises:
        EOFError, zlib.error: the archive is cut off or damaged, or something else follows.
        LimitError: there are too many archives, or they unpack into too much.
    """
    archive = None
    members = packed = size = 0
    for block in blocks:
        left = block
        packed += len(block)
        while left:
            if archive is None or archive.eof:
                archive = zlib.decompressobj(wbits=_GZIP)
                members += 1
                if members > limits.max_gzip_members:
                    raise LimitError("too_many_gzip_members", _limit_message("gzip members", limits.max_gzip_members))
            piece = archive.decompress(left, CHUNK)
            size += len(piece)
            _check_size(size, packed, limits)
            if piece:
                yield piece
            left = archive.unused_data if archive.eof else archive.unconsumed_tail
    while archive is not None and not archive.eof:
        rest = archive.decompress(b"", CHUNK)
        if not rest and not archive.eof:
            raise EOFError("it ends too early")
        yield rest


def _check_size(size: int, packed: int, limits: FileLimits) -> None:
    if size > limits.max_unpacked_bytes:
        text = f"it unpacks into more than {limits.max_unpacked_bytes:,} bytes (max_unpacked_bytes)"
        raise LimitError("unpacks_too_large", text + ": split the file")
    if size > max(_FREE_BYTES, limits.max_compression_ratio * packed):
        raise LimitError(
            "unpacks_too_large",
            f"its first {packed:,} bytes unpack into more than {limits.max_compression_ratio:,} times as many "
            "(max_compression_ratio), as in an archive made to fill a disk: pack it anew, or raise the setting",
        )


def _limit_message(what: str, limit: int) -> str:
    return f"it holds more than {limit:,} {what} (max_{what.replace(' ', '_')}): join them, or raise the setting"


class FileScan:
    """Counts lines and checks header and encoding over blocks of bytes; after a failure it only lets bytes pass.

    `lines` counts physical lines after the header that are not blank, `quoted_lines` those of them with a quote.
    `quotes` says that there may be some, `open_quotes` that some line may hold an odd number of them, `decomposed` that
    some text may not be in Unicode's form NFC. `reason` and `message` are set when the file must be rejected; `unread`
    says that it was not even opened.
    """

    def __init__(self, contract: Contract, limits: FileLimits) -> None:
        self._contract = contract
        self._limits = limits
        self._max_line, self._max_blank = limits.max_line_bytes, limits.max_blank_lines
        self._normalises = any(column.unicode_form for column in contract.columns)
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._head = b""
        self._in_header = True
        self._tail = b""
        self._open_bytes = 0
        self._seen = 0
        self._blank = 0
        self._before = ""
        self.header: tuple[str, ...] = ()
        self.lines = 0
        self.quotes = False
        self.open_quotes = False
        self.decomposed = False
        self.quoted_lines = 0
        self.reason: str | None = None
        self.message: str | None = None
        self.unread = False

    def read_file(
        self,
        opened: Callable[[str], BinaryIO],
        uri: str,
        name: str,
        *,
        header_only: bool = False,
        checksum: hashlib._Hash | None = None,
    ) -> None:
        """Look at all of a file, or until its header is known; one that the system refuses is an `unreadable_file`.

        Args:
            opened: opens it by its address.
            uri: its address; its suffix says whether it is packed.
            name: as it is called in its folder.
            header_only: read no more than the header takes.
            checksum: gets all bytes of the file as they are stored.

        Raises:
            OSError, StorageError: the store is out of order, whichever file is read.
        """
        problem = _name_problem(uri, name)
        try:
            if problem is None:
                with closing(opened(uri)) as raw:
                    compressed = uri.endswith(".gz")
                    blocks = iter(partial(raw.read, PACKED_CHUNK if compressed else CHUNK), b"")
                    if checksum is not None and compressed:  # first, as a bad archive is not read to its end
                        for _ in _hashed(blocks, checksum):
                            pass
                        raw.seek(0)
                        blocks = iter(partial(raw.read, PACKED_CHUNK), b"")
                    elif checksum is not None:
                        blocks = _hashed(blocks, checksum)
                    self.read(blocks, compressed=compressed, header_only=header_only)
        except (OSError, StorageError) as error:
            if not refuses_one_file(error):
                raise
            problem = UNREADABLE_FILE, str(error)
        if problem is not None:
            self.unread = True
            self.fail(*problem)

    def read(self, blocks: Iterable[bytes], *, compressed: bool, header_only: bool = False) -> None:
        """Look at a file's bytes, packed or not, to their end; with `header_only`, until the header is known."""
        try:
            for block in unpacked(blocks, self._limits) if compressed else blocks:
                self.feed(block)
                if header_only and (self.header or self.reason):
                    return
            self.finish()
        except (EOFError, zlib.error):
            self.fail(
                "unreadable_gzip",
                f"the archive is damaged or cut off about {self._seen:,} unpacked bytes into it: pack or copy it anew",
            )
        except LimitError as error:
            self.fail(error.reason, str(error))

    def fail(self, reason: str, message: str) -> None:
        if self.reason is None or reason == "unreadable_gzip":
            self.reason, self.message = reason, shortened(message)

    def feed(self, block: bytes) -> None:
        if self.reason is not None:
            return
        self._check_encoding(block)
        self.quotes = self.quotes or b'"' in block
        if self._in_header:
            self._head += block
            end = self._head.find(b"\n")
            if end < 0:
                if len(self._head) > self._max_line:
                    self._fail_for_line_ends(self._head)
                return
            self._take_header(self._head[:end])
            block, self._head = self._head[end + 1 :], b""
        self._count(block)

    def finish(self) -> None:
        if self.reason is not None:
            return
        self._check_encoding(b"", final=True)
        if self._in_header:
            self._take_header(self._head)
        if self._tail.strip():
            self.lines += 1
        self._look_for_open_quotes([self._tail])

    def _count(self, block: bytes) -> None:
        lines = (self._tail + block).split(b"\n")
        rest = lines.pop()
        carried = len(self._tail)
        longest = self._open_bytes + len(lines[0]) - carried if lines else 0
        # What matters of an unfinished line is whether it is blank, and whether a quote is open.
        self._tail = (b"x" if rest.strip() else rest[:1]) + (b'""' if b'"' in rest else b"")
        self._tail += b'"' * (rest.count(b'"') % 2)
        self._open_bytes = len(rest) if lines else self._open_bytes + len(rest) - carried
        if max(self._open_bytes, longest) > self._max_line:
            number = self.lines + self._blank + 2 + (0 if longest > self._max_line else len(lines))
            self.fail(
                "line_too_long",
                f"line {number:,} has more than {self._max_line:,} bytes (max_line_bytes): is a quote or a line end "
                "missing in the file?",
            )
        if lines:
            # Most blocks have no blank line, which the smallest line shows.
            blank = sum(1 for line in lines if not line.strip()) if min(lines) < _FIRST_NOT_WHITE else 0
            self._blank += blank
            self.lines += len(lines) - blank
            if self._blank > self._max_blank + 2 * self.lines:
                self.fail(
                    "too_many_blank_lines",
                    f"{self._blank:,} of its first {self._blank + self.lines:,} lines are blank, more than "
                    f"{self._max_blank:,} (max_blank_lines) and twice the others: take them out",
                )
            self._look_for_open_quotes(lines)

    def _look_for_open_quotes(self, lines: list[bytes]) -> None:
        if not self.quotes:
            return
        self.quoted_lines += sum(b'"' in line for line in lines)
        if self._contract.newline_in_field and not self.open_quotes:
            # With backslashes, what is a quote can't be counted: such records are all read with care.
            self.open_quotes = self._contract.quote_escape == "backslash" or any(line.count(b'"') % 2 for line in lines)

    def _check_encoding(self, block: bytes, *, final: bool = False) -> None:
        try:
            if final or not block.isascii() or self._decoder.getstate()[0]:  # most blocks need no decoding
                text = self._before + self._decoder.decode(block, final)
                if self._normalises and not self.decomposed:
                    self.decomposed = not unicodedata.is_normalized("NFC", text)
                self._before = text[-_SEQUENCE:]
            else:
                self._before = block[-1:].decode("ascii")
        except UnicodeDecodeError as error:
            before = self._seen + error.start
            self.fail(
                "not_utf8", f"not UTF-8 text: byte {error.object[error.start]:#04x} about {before:,} bytes into it"
            )
        self._seen += len(block)

    def _fail_for_line_ends(self, line: bytes) -> None:
        what = f"the first {self._max_line:,} bytes (max_line_bytes) hold no line end, so there is no header"
        if b"\r" in line:
            what = "its lines end with CR alone, as on old Macintosh systems: write it with LF or CRLF line ends"
        self.fail("missing_column", what)

    def _take_header(self, line: bytes) -> None:
        self._in_header = False
        if self.reason is not None:
            return
        text = line.removeprefix(_BOM).decode("utf-8", "replace").strip(WHITE_SPACE)
        if "\r" in re.sub('"[^"]*"', "", text):
            self._fail_for_line_ends(line)
            return
        if not text:
            what = "the first line is blank; it must be the header" if self._head.count(b"\n") else "the file is empty"
            self.fail("empty_file", what)
            return
        try:
            if text.count('"') % 2:  # Spark would not know such a line for the header
                raise csv.Error
            names = tuple(name.strip(WHITE_SPACE) for name in next(csv.reader([text], strict=True)))
        except csv.Error:
            self.fail(
                "missing_column", "the header can't be read: a quote is not closed, or has text beside it; see line 1"
            )
            return
        columns = self._contract.translated(names)
        missing = [column for column in self._contract.required if column not in columns]
        repeated = sorted({column for column in self._contract.names if columns.count(column) > 1})
        if missing:
            self.fail("missing_column", _missing_message(self._contract, missing, names))
        elif repeated:
            self.fail(
                "duplicate_column",
                f"the header names a column twice: {', '.join(map(self._contract.source_name, repeated))}",
            )
        elif len(names) > _MAX_COLUMNS:
            self.fail("too_many_columns", f"the header names {len(names):,} columns; at most {_MAX_COLUMNS:,} are read")
        self.header = columns


def _hashed(blocks: Iterator[bytes], checksum: hashlib._Hash) -> Iterator[bytes]:
    for block in blocks:
        checksum.update(block)
        yield block


def _name_problem(uri: str, name: str) -> tuple[str, str] | None:
    """Why Spark can't read a file of this name: reason and message."""
    if name.rpartition("/")[2].startswith("_"):
        return "hidden_name", "Spark passes over names that begin with an underscore: rename the file"
    path = uri.partition("://")[2] or uri
    if ":" in path and _PATTERN_CHARACTERS & set(path):
        return "unreadable_name", "Spark can't open a name with `:` and one of `{}[]*?\\`: rename the file"
    if "//" in name:
        return "unreadable_name", "Spark can't open a key with an empty folder name (`//`): rename the file"
    return None


def _missing_message(contract: Contract, missing: Iterable[str], names: tuple[str, ...]) -> str:
    by_folded = {name.casefold(): name for name in names}
    parts = []
    for column in missing:
        name = contract.source_name(column)
        other = by_folded.get(name.casefold())
        ours = f" (for {column})" if name != column else ""
        parts.append(f"`{name}`{ours}" + (f" (there is `{other}`: case matters)" if other else ""))
    return f"the header lacks required columns: {', '.join(parts)}; {shown_header(names)}"


def shown_header(names: tuple[str, ...]) -> str:
    """Name a header's columns, unless it looks like a row of data, which may hold what is nobody's business."""
    separators = [separator for separator in _SEPARATORS if len(names) == 1 and separator in names[0]]
    if separators:
        return f"its columns are separated by {_SEPARATORS[separators[0]]}: write the file with commas"
    if not all(_COLUMN_NAME.fullmatch(name) or not name for name in names):
        return f"the first line has {len(names):,} fields that do not look like names: is it a row of data?"
    return f"it has: {shown_names(names)}"


def shown_names(names: Sequence[str]) -> str:
    """Name columns of a header in a message: some of them, each cut to a length."""
    shown = [name if len(name) <= _MAX_NAME else name[:_MAX_NAME] + "…" for name in names[:_SHOWN_NAMES]]
    more = f" and {len(names) - _SHOWN_NAMES:,} more" if len(names) > _SHOWN_NAMES else ""
    return ", ".join(shown) + more
