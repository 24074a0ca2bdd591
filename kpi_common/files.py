"""Files on a local disk or in S3, seen the same way: list, read, write, and write only if nobody else did.

Spark reads and writes tables by itself; this is for the small files around them (manifests, results, exports,
Delta's own log, the lake's lock) and for looking into input files before Spark does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Protocol

from kpi_common.errors import UsageError
from kpi_common.local_files import LocalStorage
from kpi_common.uris import StoredFile, as_glob, bucket_and_key, etag_of_content, is_s3, join, normalise

__all__ = [
    "Folder",
    "LocalStorage",
    "Storage",
    "StoredFile",
    "as_glob",
    "bucket_and_key",
    "etag_of_content",
    "is_s3",
    "join",
    "normalise",
    "open_lake",
    "storage_for",
]


class Storage(Protocol):
    """A file store; `uri` is a local path or s3://bucket/key. Each failure is a StorageError that names it."""

    def list_files(self, folder: str, within: str | None = None) -> Iterator[StoredFile]: ...
    def find(self, uri: str) -> StoredFile | None: ...
    def open(self, uri: str) -> BinaryIO: ...
    def read(self, uri: str, first_bytes: int | None = None) -> bytes | None: ...
    def write(self, uri: str, data: bytes) -> None: ...
    def read_tagged(self, uri: str) -> tuple[bytes, str] | None: ...
    def write_if(self, uri: str, data: bytes, tag: str | None) -> str | None: ...
    def rewrite_if(self, uri: str, data: bytes, tag: str) -> str | None: ...
    def delete_if(self, uri: str, tag: str) -> bool: ...
    def delete_folder(self, folder: str) -> int: ...


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
