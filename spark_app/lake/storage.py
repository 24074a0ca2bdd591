"""Files on a local disk or in S3, seen the same way: list, read, write, and write only if nobody else did.

Spark reads and writes tables by itself; this is for the small files around them (manifests, results, exports,
Delta's own log, the lake's lock) and for looking into input files before Spark does.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import urlsplit

from spark_app.errors import StorageError, UsageError

# What a file is called while it is being written; a killed run may leave one, which is in no listing.
_PARTIAL = ".partial"

_NO_SUCH_FILE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}


@dataclass(frozen=True)
class StoredFile:
    """One file as a listing shows it.

    `etag` is S3's; a local file has none until its content is read (`etag_of_content`), and `stat` is what tells
    that a local file has not been touched since.
    """

    uri: str
    relative: str
    size: int
    modified_at: datetime
    etag: str | None
    stat: str | None


class Storage(Protocol):
    """What the application needs of a file store; `uri` is a local path or s3://bucket/key."""

    def list_files(self, folder: str) -> Iterator[StoredFile]: ...
    def find(self, uri: str) -> StoredFile | None: ...
    def open(self, uri: str) -> BinaryIO: ...
    def read(self, uri: str) -> bytes | None: ...
    def write(self, uri: str, data: bytes) -> None: ...
    def read_tagged(self, uri: str) -> tuple[bytes, str] | None: ...
    def write_if(self, uri: str, data: bytes, tag: str | None) -> str | None: ...
    def delete_if(self, uri: str, tag: str) -> None: ...
    def delete_folder(self, folder: str) -> None: ...


def is_s3(uri: str) -> bool:
    """Tell whether `uri` is in S3 (s3://, s3a:// or s3n://)."""
    return urlsplit(uri).scheme in {"s3", "s3a", "s3n"}


def join(folder: str, *parts: str) -> str:
    """Append path segments to a folder's URI."""
    return "/".join([folder.rstrip("/"), *(part.strip("/") for part in parts)])


def as_glob(uri: str) -> str:
    """Return the pattern that Spark's readers take for just this file."""
    return "".join(f"\\{character}" if character in "{}[]*?\\" else character for character in uri)


def normalise(uri: str) -> str:
    """Return a URI without trailing slash; a local path becomes absolute.

    Raises:
        UsageError: a scheme that is neither a local path nor S3.
    """
    scheme = urlsplit(uri).scheme
    if is_s3(uri):
        return uri.rstrip("/")
    if scheme == "file":
        uri = uri.removeprefix("file://")
    elif "://" in uri:
        raise UsageError(f"{uri}: only local paths and s3:// are supported")
    return str(Path(uri).absolute())


def storage_for(uri: str) -> Storage:
    """Return the store that holds `uri`."""
    if not is_s3(uri):
        return LocalStorage()
    from spark_app.lake.s3_storage import S3Storage  # it takes a while to load

    return S3Storage()


class LocalStorage:
    """A local disk. Conditional writes are serialised by a lock file beside the file."""

    def list_files(self, folder: str) -> Iterator[StoredFile]:
        """Yield all files below a folder, in no order; nothing where there is no such folder.

        What a write left that was killed in the middle is no file.

        Raises:
            StorageError: a folder can't be read.
        """
        root = Path(folder)
        for directory, _, names in os.walk(root, onerror=_unreadable):
            for name in names:
                if name.startswith(".") and name.endswith(_PARTIAL):
                    continue
                path = Path(directory, name)
                found = self.find(str(path))
                if found is not None:
                    yield StoredFile(**{**found.__dict__, "relative": path.relative_to(root).as_posix()})

    def find(self, uri: str) -> StoredFile | None:
        """Return a file's size and times, or None where there is no such file (a pipe or a device is none)."""
        path = Path(uri)
        try:
            facts = path.stat()
        except OSError as error:
            if error.errno not in _NO_SUCH_FILE:
                raise StorageError(f"{uri}: can't be read: {error.strerror}") from error
            return None
        if not stat.S_ISREG(facts.st_mode):
            return None
        modified = datetime.fromtimestamp(facts.st_mtime_ns // 1000 / 1e6, UTC)
        unchanged = f"{facts.st_size}-{facts.st_mtime_ns}-{facts.st_ctime_ns}-{facts.st_ino}"
        return StoredFile(str(path), path.name, facts.st_size, modified, None, unchanged)

    def open(self, uri: str) -> BinaryIO:
        """Open a file's bytes, unbuffered by us and not decompressed."""
        return Path(uri).open("rb")

    def read(self, uri: str) -> bytes | None:
        """Return a file's bytes, or None where there is no such file."""
        try:
            return Path(uri).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, uri: str, data: bytes) -> None:
        """Write a file so that readers see all of it or the one before.

        Raises:
            StorageError: the folder can't be made or written.
        """
        path = Path(uri)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_PARTIAL)
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except OSError as error:
            raise StorageError(f"{uri}: can't be written: {error.strerror}") from error

    def read_tagged(self, uri: str) -> tuple[bytes, str] | None:
        """Return a file's bytes and a tag that changes with them."""
        data = self.read(uri)
        return None if data is None else (data, etag_of_content(data))

    def write_if(self, uri: str, data: bytes, tag: str | None) -> str | None:
        """Write if the file still has this tag (None: if there is no file); return the new tag, or None if not."""
        with self._alone(uri):
            there = self.read_tagged(uri)
            if (None if there is None else there[1]) != tag:
                return None
            self.write(uri, data)
            return etag_of_content(data)

    def delete_if(self, uri: str, tag: str) -> None:
        """Delete the file if it still has this tag."""
        with self._alone(uri):
            there = self.read_tagged(uri)
            if there is not None and there[1] == tag:
                Path(uri).unlink(missing_ok=True)

    def delete_folder(self, folder: str) -> None:
        """Delete a folder with all that is in it."""
        shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _alone(self, uri: str) -> Iterator[None]:
        path = Path(uri)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.with_name(f".{path.name}.guard").open("w") as guard:
                fcntl.flock(guard, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise StorageError(f"{uri}: can't be written: {error.strerror}") from error


def _unreadable(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise StorageError(f"{error.filename}: can't be read: {error.strerror}") from error


def etag_of_content(data: bytes) -> str:
    """Return what S3 would give as the etag of an object put in one piece (its MD5)."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
