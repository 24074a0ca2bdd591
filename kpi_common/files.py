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
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import unquote, urlsplit

from kpi_common.errors import StorageError, UsageError

# What a file is called while it is being written; a killed run may leave one, which is in no listing.
_PARTIAL = ".partial"

_NEVER = datetime.fromtimestamp(0, timezone.utc)
_NO_SUCH_FILE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}


@dataclass(frozen=True)
class StoredFile:
    """One file as a listing shows it; `relative` is its path below the listed folder.

    `etag` is S3's; a local file has none until its content is read (`etag_of_content`), and `stat` is what tells
    that a local file has not been touched since. `problem` says why this can't be an input (a pipe, a link that
    leads out of the input, …).
    """

    uri: str
    relative: str
    size: int = 0
    modified_at: datetime = _NEVER
    etag: str | None = None
    stat: str | None = None
    problem: str | None = None


class Storage(Protocol):
    """A file store; `uri` is a local path or s3://bucket/key. Each failure is a StorageError that names it."""

    def list_files(self, folder: str, within: str | None = None) -> Iterator[StoredFile]: ...
    def find(self, uri: str) -> StoredFile | None: ...
    def open(self, uri: str) -> BinaryIO: ...
    def read(self, uri: str, first_bytes: int | None = None) -> bytes | None: ...
    def write(self, uri: str, data: bytes) -> None: ...
    def read_tagged(self, uri: str) -> tuple[bytes, str] | None: ...
    def write_if(self, uri: str, data: bytes, tag: str | None) -> str | None: ...
    def delete_if(self, uri: str, tag: str) -> bool: ...
    def delete_folder(self, folder: str) -> int: ...


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
    if is_s3(uri):
        return uri.rstrip("/")
    if uri.startswith("file:"):
        uri = unquote(uri.removeprefix("file:").removeprefix("//"))
    elif "://" in uri:
        raise UsageError(f"{uri}: only local paths and s3:// are supported")
    return str(Path(uri).absolute())


def etag_of_content(data: bytes) -> str:
    """Return what S3 would give as the etag of an object put in one piece (its MD5)."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def storage_for(uri: str) -> Storage:
    """Return the store that holds `uri`."""
    return _s3_storage() if is_s3(uri) else LocalStorage()


@lru_cache(maxsize=1)
def _s3_storage() -> Storage:
    from kpi_common.s3_files import S3Storage  # boto3 takes a while to load

    return S3Storage()


@dataclass(frozen=True)
class Folder:
    """A folder on a disk or in S3 whose files are named by their paths in it."""

    uri: str

    def location(self, path: str) -> str:
        """Return a path in the form that a person can use."""
        return join(self.uri, path)

    def read(self, path: str) -> bytes:
        """Return a file's content; `FileNotFoundError` when there is none."""
        data = storage_for(self.uri).read(self.location(path))
        if data is None:
            raise FileNotFoundError(self.location(path))
        return data

    def write(self, path: str, content: bytes) -> None:
        """Write a file all at once: nobody sees half of it."""
        storage_for(self.uri).write(self.location(path), content)

    def files(self, folder: str, names: frozenset[str]) -> Iterator[str]:
        """Yield the paths of files with one of these names in the folders right under `folder`, in order."""
        listed = storage_for(self.uri).list_files(self.location(folder))
        for relative in sorted(stored.relative for stored in listed):
            if relative.count("/") == 1 and relative.partition("/")[2] in names:
                yield f"{folder}/{relative}"


def open_lake(uri: str) -> Folder:
    """Return the folder of a lake.

    Raises:
        UsageError: there is no such folder, or the address is of another kind.
    """
    uri = normalise(uri)
    if is_s3(uri):
        bucket_and_key(uri)
    elif not Path(uri).is_dir():
        raise UsageError(f"{uri}: there is no such folder")
    return Folder(uri)


def bucket_and_key(uri: str) -> tuple[str, str]:
    """Return bucket and key of an address in S3.

    Raises:
        UsageError: it names no bucket.
    """
    bucket, _, key = uri.partition("://")[2].partition("/")
    if not is_s3(uri) or not bucket:
        raise UsageError(f"{uri}: expected s3://bucket/prefix")
    return bucket, key


class LocalStorage:
    """A local disk. Conditional writes are serialised by a lock file beside the file."""

    def list_files(self, folder: str, within: str | None = None) -> Iterator[StoredFile]:
        """Yield all files below a folder, in no order; nothing where there is no such folder.

        What a write left that was killed in the middle is no file.

        Args:
            folder: its own files; linked folders below it are not followed.
            within: the input that the folder is in, whose files are others': then links are followed, but never out
                of it, each folder is listed once (so circles end), and all that can't be taken is yielded with its
                `problem`.

        Raises:
            StorageError: a folder can't be read (with `within`: the folder itself).
        """
        if within is not None:
            yield from self._list_input(Path(folder), Path(os.path.realpath(within)))
            return
        for directory, _, names in os.walk(folder, onerror=_unreadable):
            for path in (Path(directory, name) for name in names if not _is_partial(name)):
                found = self.find(str(path))
                if found is not None:
                    yield replace(found, relative=path.relative_to(folder).as_posix())

    def _list_input(self, folder: Path, limit: Path) -> Iterator[StoredFile]:
        def refuse(error: OSError) -> None:
            if error.filename == str(folder):
                _unreadable(error)

        above = Path(os.path.realpath(folder)).parents
        waiting, listed = [folder], set[Path]()
        while waiting:  # linked folders come last: what is listed anyway is listed by its own name
            top = waiting.pop(0)
            problem = _leads_out(top, limit)
            if Path(os.path.realpath(top)) in (*above, *listed):
                problem = problem or "a link in a circle, or to a folder that is listed by its own name"
            if problem is not None:
                yield StoredFile(str(top), top.relative_to(folder).as_posix().lstrip("."), problem=problem)
                continue
            for directory, folders, names in os.walk(top, onerror=refuse):
                listed.add(Path(os.path.realpath(directory)))
                for path in [Path(directory, name) for name in sorted(folders)]:
                    if _is_link(path):
                        waiting.append(path)
                    elif Path(os.path.realpath(path)) in listed:
                        folders.remove(path.name)
                    elif not os.access(path, os.R_OK | os.X_OK):
                        yield StoredFile(str(path), path.relative_to(folder).as_posix(), problem="can't be read")
                for path in (Path(directory, name) for name in names if not _is_partial(name)):
                    yield replace(self._input(path, limit), relative=path.relative_to(folder).as_posix())

    def _input(self, path: Path, limit: Path) -> StoredFile:
        link = _is_link(path)
        problem = _leads_out(path, limit) if link else None
        try:
            found = None if problem else self.find(str(path))
        except StorageError as error:
            problem, found = str(error), None
        return found or StoredFile(str(path), path.name, problem=problem or f"no file{' behind the link' * link}")

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
        modified = datetime.fromtimestamp(facts.st_mtime_ns // 1000 / 1e6, timezone.utc)
        unchanged = f"{facts.st_size}-{facts.st_mtime_ns}-{facts.st_ctime_ns}-{facts.st_ino}"
        return StoredFile(str(path), path.name, facts.st_size, modified, None, unchanged)

    def open(self, uri: str) -> BinaryIO:
        """Open a file's bytes, unbuffered by us and not decompressed."""
        return Path(uri).open("rb")

    def read(self, uri: str, first_bytes: int | None = None) -> bytes | None:
        """Return a file's bytes (or its first ones), or None where there is no such file."""
        try:
            with Path(uri).open("rb") as stream:
                return stream.read(first_bytes)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StorageError(f"{uri}: can't be read: {error.strerror}") from error

    def write(self, uri: str, data: bytes) -> None:
        """Write a file so that readers see all of it or the one before, also after a power cut.

        Raises:
            StorageError: the folder can't be made or written; nothing is left beside the file.
        """
        path, temporary = Path(uri), None
        try:
            if not path.parent.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_PARTIAL)
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fchmod(handle, 0o644)
                os.fsync(handle)
            Path(temporary).replace(path)
            _sync_folder(path.parent)
        except OSError as error:
            if temporary is not None:
                with suppress(OSError):
                    Path(temporary).unlink(missing_ok=True)
            raise StorageError(f"{uri}: can't be written: {error.strerror}") from error

    def read_tagged(self, uri: str) -> tuple[bytes, str] | None:
        """Return a file's bytes and a tag that changes with them."""
        data = self.read(uri)
        return None if data is None else (data, etag_of_content(data))

    def write_if(self, uri: str, data: bytes, tag: str | None) -> str | None:
        """Write if the file still has this tag (None: if there is no file); return the new tag, or None if not."""
        with self._alone(uri):
            found = self.read_tagged(uri)
            if (None if found is None else found[1]) != tag:
                return None
            self.write(uri, data)
            return etag_of_content(data)

    def delete_if(self, uri: str, tag: str) -> bool:
        """Delete the file if it still has this tag; tell whether no file is there now."""
        with self._alone(uri):
            found = self.read_tagged(uri)
            if found is not None and found[1] == tag:
                Path(uri).unlink(missing_ok=True)
            return found is None or found[1] == tag

    def delete_folder(self, folder: str) -> int:
        """Delete a folder with all that is in it and return how many files that were."""
        files = sum(1 for _ in self.list_files(folder))
        shutil.rmtree(folder, ignore_errors=True)
        if Path(folder).exists():
            raise StorageError(f"{folder}: can't be deleted")
        return files

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


def _is_partial(name: str) -> bool:
    return name.startswith(".") and name.endswith(_PARTIAL)


def _is_link(path: Path) -> bool:
    return os.path.islink(path)  # noqa: PTH114 (Path's raises where the folder can't be searched)


def _leads_out(path: Path, limit: Path) -> str | None:
    real = Path(os.path.realpath(path))
    return None if limit == real or limit in real.parents else "a link that leads out of the input"


def _sync_folder(folder: Path) -> None:
    """Make a new name in a folder outlast a power cut, where the file system can."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)


def _unreadable(error: OSError) -> None:
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise StorageError(f"{error.filename}: can't be read: {error.strerror}") from error
