"""Files on a local disk; see `files`."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, BinaryIO

from kpi_common.errors import StorageError
from kpi_common.uris import StoredFile, etag_of_content

# What a file is called while it is being written; a killed run may leave one, which is in no listing.
_PARTIAL = ".partial"

_LONGEST_WAIT_S = 30

_NO_SUCH_FILE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}


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
                    elif not os.access(path, os.R_OK):
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
        modified = datetime.fromtimestamp(facts.st_mtime_ns // 1000 / 1e6, UTC)
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

    def write(self, uri: str, data: bytes, times_ns: tuple[int, int] | None = None) -> None:
        """Write a file so that readers see all of it or the one before, also after a power cut.

        Args:
            uri: where to.
            data: all of it.
            times_ns: of its last access and modification, if not now.

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
                if times_ns is not None:
                    os.utime(handle, ns=times_ns)
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
            _delete_leftovers(Path(uri))
            self.write(uri, data)
            return etag_of_content(data)

    def rewrite_if(self, uri: str, data: bytes, tag: str) -> str | None:
        """Write as `write_if`, with the times that the file has; made for others' files, so without a lock file."""
        found = self.read_tagged(uri)
        if found is None or found[1] != tag:
            return None
        facts = Path(uri).stat()
        _delete_leftovers(Path(uri))
        self.write(uri, data, (facts.st_atime_ns, facts.st_mtime_ns))
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
                _lock(guard, uri)
                yield
        except OSError as error:
            raise StorageError(f"{uri}: can't be written: {error.strerror}") from error


def _lock(guard: IO[str], uri: str) -> None:
    """Wait until nobody else writes the file: that takes moments, unless a process was stopped in the midst of it."""
    deadline = time.monotonic() + _LONGEST_WAIT_S
    while not _is_locked(guard):
        if time.monotonic() > deadline:
            raise StorageError(
                f"{uri}: another process has been writing it for {_LONGEST_WAIT_S} s; if that is stopped, let it go on "
                f"or end it (`fuser {guard.name}` tells which it is)"
            )
        time.sleep(0.01)


def _is_locked(guard: IO[str]) -> bool:
    try:
        fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _delete_leftovers(path: Path) -> None:
    """Delete what killed writers of a file left beside it; nobody else may be writing it now."""
    theirs = re.compile(rf"\.{re.escape(path.name)}\.[^.]+{re.escape(_PARTIAL)}")
    for neighbour in path.parent.iterdir():
        if theirs.fullmatch(neighbour.name):
            neighbour.unlink(missing_ok=True)


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
