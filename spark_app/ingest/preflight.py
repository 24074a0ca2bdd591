"""A look into each new file before Spark reads it: does it open, is it UTF-8, what is its header, how many lines.

The line count is the independent figure that the conservation of rows is checked against. All is plain Python
over a stream of bytes, so it runs on the driver for small inputs and on the executors for large ones.
"""

from __future__ import annotations

import codecs
import csv
import errno
import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

from kpi_common.files import storage_for
from spark_app.config.contracts import Contract, load_contract
from spark_app.errors import StorageError
from spark_app.ingest.csv_records import FIRST_NOT_WHITE
from spark_app.run.files import UNREAD, InputFile
from spark_app.spark.columns import WHITE_SPACE

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_CHUNK = 256 * 1024  # what a core keeps at hand: larger blocks take twice as long a byte
_MAX_HEADER = 1024 * 1024
_MAX_COLUMNS = 1000  # each takes its time to plan, and some memory of the driver
_MAX_LINE = 32 * 1024 * 1024  # longer ones would be several times in memory, of each task
_BOM = codecs.BOM_UTF8
_PATTERN_CHARACTERS = set("{}[]*?\\")
_GZIP = 16 + zlib.MAX_WBITS
_REFUSALS = {errno.EACCES, errno.EPERM, errno.ENOENT, errno.EIO}
_FIRST_NOT_WHITE = FIRST_NOT_WHITE.encode()


@dataclass(frozen=True)
class Inspection:
    """What a look into one file found.

    `lines` counts physical lines after the header that are not blank. `quotes` says that there may be some,
    `open_quotes` that some line may hold an odd number of them. `reason` and `message` are set when the file must be
    rejected.
    """

    file: InputFile
    header: tuple[str, ...] = ()
    lines: int = 0
    quotes: bool = True
    open_quotes: bool = True
    reason: str | None = None
    message: str | None = None


def inspect_files(files: list[InputFile], spark: Callable[[], SparkSession], on_driver_bytes: int) -> list[Inspection]:
    """Inspect files, in the order given: on the driver if they are small in all, else on the executors."""
    if sum(file.size for file in files) <= on_driver_bytes:
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(_inspect_or_refuse, files))
    context = spark().sparkContext
    slices = min(len(files), 8 * context.defaultParallelism)
    return context.parallelize(files, slices).map(_inspect_or_refuse).collect()


def _inspect_or_refuse(file: InputFile) -> Inspection:
    """Refuse a file that may not be read, with the system's reason: it must not hold up the others."""
    try:
        return inspect_file(file)
    except (OSError, StorageError) as error:
        if not _is_refusal(error):
            raise
        return Inspection(replace(file, etag=file.etag or UNREAD), reason="unreadable_file", message=str(error))


def _is_refusal(error: BaseException | None) -> bool:
    """Whether this one file is meant (S3's 403 and 404 too), rather than a store that is out of order for a while."""
    while error is not None:
        answer = getattr(error, "response", {}).get("ResponseMetadata", {})
        if (isinstance(error, OSError) and error.errno in _REFUSALS) or answer.get("HTTPStatusCode") in {403, 404}:
            return True
        error = getattr(error, "backend_error", None) or error.__cause__
    return False


def inspect_file(file: InputFile) -> Inspection:
    """Read all bytes of one file; a local file's etag (MD5) comes out of it too."""
    against = _name_problem(file)
    if against is not None:
        return Inspection(replace(file, etag=file.etag or UNREAD), reason=against[0], message=against[1])
    checksum = hashlib.md5(usedforsecurity=False) if file.etag is None else None
    with storage_for(file.uri).open(file.uri) as raw:
        if file.compressed and checksum is not None:
            for block in iter(partial(raw.read, _CHUNK), b""):
                checksum.update(block)
            raw.seek(0)
        update = None if file.compressed or checksum is None else checksum.update
        scan = _Scan(load_contract(file.dataset))
        try:
            for block in _unpacked(raw) if file.compressed else iter(partial(raw.read, _CHUNK), b""):
                if update is not None:
                    update(block)
                scan.feed(block)
            scan.finish()
        except (EOFError, zlib.error) as error:
            scan.fail("unreadable_gzip", f"the archive is damaged or cut off: {error}")
    if checksum is not None:
        file = replace(file, etag=checksum.hexdigest())
    return Inspection(file, scan.header, scan.lines, scan.quotes, scan.open_quotes, scan.reason, scan.message)


def _name_problem(file: InputFile) -> tuple[str, str] | None:
    """Why Spark can't read a file of this name: reason and message."""
    if file.name.rpartition("/")[2].startswith("_"):
        return "hidden_name", "Spark passes over names that begin with an underscore: rename the file"
    path = file.uri.partition("://")[2] or file.uri
    if ":" in path and _PATTERN_CHARACTERS & set(path):
        return "unreadable_name", "Spark can't open a name with `:` and one of `{}[]*?\\`: rename the file"
    if "//" in file.name:
        return "unreadable_name", "Spark can't open a key with an empty folder name (`//`): rename the file"
    return None


def _unpacked(raw: BinaryIO) -> Iterator[bytes]:
    """Unpack gzip in pieces, as strictly as Spark does: after an archive nothing may follow but another one.

    (Python's own reader takes zeros behind an archive; Spark's ends the whole job there.)

    Raises:
        EOFError, zlib.error: the archive is cut off or damaged, or something else follows.
    """
    archive = None
    for packed in iter(partial(raw.read, _CHUNK), b""):
        left = packed
        while left:
            if archive is None or archive.eof:
                archive = zlib.decompressobj(wbits=_GZIP)
            yield archive.decompress(left, _CHUNK)
            left = archive.unused_data if archive.eof else archive.unconsumed_tail
    while archive is not None and not archive.eof:
        rest = archive.decompress(b"", _CHUNK)
        if not rest and not archive.eof:
            raise EOFError("it ends too early")
        yield rest


class _Scan:
    """Counts lines and checks header and encoding over blocks of bytes; after a failure it only lets bytes pass."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._head = b""
        self._in_header = True
        self._tail = b""
        self._open_bytes = 0
        self._seen = 0
        self.header: tuple[str, ...] = ()
        self.lines = 0
        self.quotes = False
        self.open_quotes = False
        self.reason: str | None = None
        self.message: str | None = None

    def fail(self, reason: str, message: str) -> None:
        if self.reason is None or reason == "unreadable_gzip":
            self.reason, self.message = reason, message

    def feed(self, block: bytes) -> None:
        if self.reason is not None:
            return
        self._check_encoding(block)
        self.quotes = self.quotes or b'"' in block
        if self._in_header:
            self._head += block
            end = self._head.find(b"\n")
            if end < 0:
                if len(self._head) > _MAX_HEADER:
                    self.fail(
                        "missing_column", f"the first {_MAX_HEADER} bytes hold no line end, so there is no header"
                    )
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
        # What matters of an unfinished line is whether it is blank, and whether a quote is open.
        self._tail = (b"x" if rest.strip() else rest[:1]) + b'"' * (rest.count(b'"') % 2)
        self._open_bytes = len(rest) + (0 if lines else self._open_bytes)
        if self._open_bytes > _MAX_LINE:
            self.fail("line_too_long", f"a line of more than {_MAX_LINE:,} bytes, about {self._seen:,} bytes into it")
        if lines:
            # Most blocks have no blank line, which the smallest line shows.
            blank = sum(1 for line in lines if not line.strip()) if min(lines) < _FIRST_NOT_WHITE else 0
            self.lines += len(lines) - blank
            self._look_for_open_quotes(lines)

    def _look_for_open_quotes(self, lines: list[bytes]) -> None:
        if self._contract.newline_in_field and self.quotes and not self.open_quotes:
            self.open_quotes = any(line.count(b'"') % 2 for line in lines)

    def _check_encoding(self, block: bytes, *, final: bool = False) -> None:
        try:
            if final or not block.isascii() or self._decoder.getstate()[0]:  # most blocks need no decoding
                self._decoder.decode(block, final)
        except UnicodeDecodeError as error:
            before = self._seen + error.start
            self.fail(
                "not_utf8", f"not UTF-8 text: byte {error.object[error.start]:#04x} about {before:,} bytes into it"
            )
        self._seen += len(block)

    def _take_header(self, line: bytes) -> None:
        self._in_header = False
        if self.reason is not None:
            return
        text = line.removeprefix(_BOM).decode("utf-8", "replace").strip(WHITE_SPACE)
        if not text:
            what = "the first line is blank; it must be the header" if self._head.count(b"\n") else "the file is empty"
            self.fail("empty_file", what)
            return
        try:
            if text.count('"') % 2:  # Spark would not know such a line for the header
                raise csv.Error("a quote is not closed")
            names = tuple(name.strip(WHITE_SPACE) for name in next(csv.reader([text], strict=True)))
        except csv.Error as error:
            self.fail("missing_column", f"the header can't be read: {error}")
            return
        missing = [name for name in self._contract.required if name not in names]
        repeated = sorted({name for name in self._contract.names if names.count(name) > 1})
        if missing:
            self.fail("missing_column", _missing_message(missing, names))
        elif repeated:
            self.fail("duplicate_column", f"the header names a column twice: {', '.join(repeated)}")
        elif len(names) > _MAX_COLUMNS:
            self.fail("too_many_columns", f"the header names {len(names):,} columns; at most {_MAX_COLUMNS:,} are read")
        self.header = names


def _missing_message(missing: Iterable[str], names: tuple[str, ...]) -> str:
    by_folded = {name.casefold(): name for name in names}
    parts = []
    for name in missing:
        other = by_folded.get(name.casefold())
        parts.append(f"`{name}`" + (f" (there is `{other}`: case matters)" if other else ""))
    shown = ", ".join(names[:30])
    return f"the header lacks required columns: {', '.join(parts)}; it has: {shown}"
