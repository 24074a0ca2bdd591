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
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, cast
from urllib.parse import urlsplit

import boto3
import smart_open
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from spark_app.errors import StorageError, UsageError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


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
    return S3Storage() if is_s3(uri) else LocalStorage()


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


class S3Storage:
    """S3, or a server that speaks its protocol (`AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`)."""

    def list_files(self, folder: str) -> Iterator[StoredFile]:
        """Yield all objects below a prefix; empty "folder" objects are left out."""
        bucket, prefix = _bucket_and_key(folder)
        prefix = prefix.rstrip("/") + "/" if prefix else ""
        with _s3_errors(folder):
            for page in s3_client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
                for entry in page.get("Contents", []):
                    key = entry["Key"]
                    if not key.endswith("/"):
                        uri = f"{urlsplit(folder).scheme}://{bucket}/{key}"
                        yield _stored(uri, key.removeprefix(prefix), entry["Size"], entry)

    def find(self, uri: str) -> StoredFile | None:
        """Return an object's size, time and etag, or None where there is no such object."""
        bucket, key = _bucket_and_key(uri)
        with _s3_errors(uri):
            try:
                head = s3_client().head_object(Bucket=bucket, Key=key)
            except ClientError as error:
                if _status(error) == 404:
                    return None
                raise
            return _stored(uri, key.rsplit("/", 1)[-1], head["ContentLength"], head)

    def open(self, uri: str) -> BinaryIO:
        """Open an object's bytes as a stream, not decompressed."""
        with _s3_errors(uri):
            client = {"client": s3_client()}
            return smart_open.open(_plain(uri), "rb", compression="disable", transport_params=client)

    def read(self, uri: str) -> bytes | None:
        """Return an object's bytes, or None where there is no such object."""
        found = self.read_tagged(uri)
        return None if found is None else found[0]

    def write(self, uri: str, data: bytes) -> None:
        """Put an object."""
        bucket, key = _bucket_and_key(uri)
        with _s3_errors(uri):
            s3_client().put_object(Bucket=bucket, Key=key, Body=data)

    def read_tagged(self, uri: str) -> tuple[bytes, str] | None:
        """Return an object's bytes and etag."""
        bucket, key = _bucket_and_key(uri)
        with _s3_errors(uri):
            try:
                answer = s3_client().get_object(Bucket=bucket, Key=key)
            except ClientError as error:
                if _status(error) == 404:
                    return None
                raise
            return answer["Body"].read(), answer["ETag"]

    def write_if(self, uri: str, data: bytes, tag: str | None) -> str | None:
        """Put if the object still has this etag (None: if there is none); return the new etag, or None if not."""
        bucket, key = _bucket_and_key(uri)
        condition: dict[str, Any] = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
        with _s3_errors(uri):
            try:
                answer = s3_client().put_object(Bucket=bucket, Key=key, Body=data, **condition)
            except ClientError as error:
                if _status(error) in {404, 409, 412}:
                    return None
                raise
            return answer["ETag"]

    def delete_if(self, uri: str, tag: str) -> None:
        """Delete the object if it still has this etag.

        S3 has no conditional delete everywhere: the tag is checked first, which is enough for a lock that only
        its holder deletes.
        """
        found = self.find(uri)
        if found is not None and f'"{found.etag}"' == tag:
            bucket, key = _bucket_and_key(uri)
            with _s3_errors(uri):
                s3_client().delete_object(Bucket=bucket, Key=key)

    def delete_folder(self, folder: str) -> None:
        """Delete all objects below a prefix."""
        bucket, _ = _bucket_and_key(folder)
        keys = [{"Key": _bucket_and_key(entry.uri)[1]} for entry in self.list_files(folder)]
        with _s3_errors(folder):
            for start in range(0, len(keys), 1000):
                batch = cast(Any, keys[start : start + 1000])
                s3_client().delete_objects(Bucket=bucket, Delete={"Objects": batch})


@lru_cache(maxsize=1)
def s3_client() -> S3Client:
    """Return the process's S3 client; region, endpoint and credentials come from the ordinary AWS environment."""
    config = Config(retries={"mode": "standard", "max_attempts": 8}, max_pool_connections=32)
    return boto3.session.Session().client("s3", config=config)


def etag_of_content(data: bytes) -> str:
    """Return what S3 would give as the etag of an object put in one piece (its MD5)."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _bucket_and_key(uri: str) -> tuple[str, str]:
    bucket, _, key = _plain(uri).removeprefix("s3://").partition("/")
    if not bucket:
        raise UsageError(f"{uri}: expected s3://bucket/prefix")
    return bucket, key


def _plain(uri: str) -> str:
    return "s3://" + uri.partition("://")[2]


def _stored(uri: str, relative: str, size: int, facts: Any) -> StoredFile:
    return StoredFile(uri, relative, size, facts["LastModified"].astimezone(UTC), facts["ETag"].strip('"'), None)


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


@contextmanager
def _s3_errors(uri: str) -> Iterator[None]:
    try:
        yield
    except (ClientError, BotoCoreError) as error:
        raise StorageError(f"{uri}: S3 says: {error}") from error
