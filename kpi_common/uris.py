"""Addresses of files, local or in S3, and what a listing shows of a file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

from kpi_common.errors import UsageError

_NEVER = datetime.fromtimestamp(0, UTC)


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


def bucket_and_key(uri: str) -> tuple[str, str]:
    """Return bucket and key of an address in S3.

    Raises:
        UsageError: it names no bucket.
    """
    bucket, _, key = uri.partition("://")[2].partition("/")
    if not is_s3(uri) or not bucket:
        raise UsageError(f"{uri}: expected s3://bucket/prefix")
    return bucket, key
