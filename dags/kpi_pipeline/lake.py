"""Files of the lake, in a folder or on S3, by their path inside the lake."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote, urlsplit

from botocore.exceptions import ClientError

from kpi_pipeline.aws import error_code, plain_aws_errors, s3_client
from kpi_pipeline.errors import PipelineError, UsageError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

S3_SCHEMES = ("s3", "s3a", "s3n")


class Lake(Protocol):
    """What the delivery needs of a lake."""

    def read(self, path: str) -> bytes:
        """Return a file's content; `FileNotFoundError` when there is none."""

    def write(self, path: str, content: bytes) -> None:
        """Write a file all at once: nobody sees half of it."""

    def files(self, folder: str, names: frozenset[str]) -> Iterator[str]:
        """Yield the paths of files with one of these names in the folders right under `folder`."""

    def location(self, path: str) -> str:
        """Return a path in the form that a person can use."""


def open_lake(uri: str) -> Lake:
    """Return the lake at a local path, `file:` or `s3://` address.

    Raises:
        UsageError: there is no such folder, or the address is of another kind.
    """
    parts = urlsplit(uri)
    if parts.scheme in S3_SCHEMES:
        if not parts.netloc:
            raise UsageError(f"{uri}: no bucket named")
        return S3Lake(parts.netloc, parts.path.strip("/"))
    if parts.scheme and "://" in uri and parts.scheme != "file":
        raise UsageError(f"{uri}: a lake is a local folder or s3://bucket/prefix")
    folder = Path(unquote(parts.path) if parts.scheme == "file" else uri)
    if not folder.is_dir():
        raise UsageError(f"{folder}: there is no such folder")
    return LocalLake(folder)


class LocalLake:
    """A lake in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, path: str) -> bytes:
        try:
            return (self._folder / path).read_bytes()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise PipelineError(f"{self.location(path)}: can't be read: {error.strerror}") from error

    def write(self, path: str, content: bytes) -> None:
        target = self._folder / path
        partial = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            with partial.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(target)
        except OSError as error:
            raise PipelineError(f"{self.location(path)}: can't be written: {error.strerror}") from error

    def files(self, folder: str, names: frozenset[str]) -> Iterator[str]:
        top = self._folder / folder
        if not top.is_dir():
            return
        for inner in sorted(top.iterdir()):
            for name in sorted(names):
                if (inner / name).is_file():
                    yield f"{folder}/{inner.name}/{name}"

    def location(self, path: str) -> str:
        return str(self._folder / path)


class S3Lake:
    """A lake under a prefix of a bucket."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""

    @cached_property
    def _client(self) -> S3Client:
        return s3_client()

    def read(self, path: str) -> bytes:
        with plain_aws_errors(self.location(path)):
            try:
                return self._client.get_object(Bucket=self._bucket, Key=self._prefix + path)["Body"].read()
            except ClientError as error:
                if error_code(error) in ("NoSuchKey", "404"):
                    raise FileNotFoundError(self.location(path)) from error
                raise

    def write(self, path: str, content: bytes) -> None:
        with plain_aws_errors(self.location(path)):
            self._client.put_object(Bucket=self._bucket, Key=self._prefix + path, Body=content)

    def files(self, folder: str, names: frozenset[str]) -> Iterator[str]:
        prefix = f"{self._prefix}{folder}/"
        with plain_aws_errors(self.location(folder)):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix):
                for entry in page.get("Contents", []):
                    parts = entry["Key"][len(prefix) :].split("/")
                    if len(parts) == 2 and parts[1] in names:
                        yield f"{folder}/{'/'.join(parts)}"

    def location(self, path: str) -> str:
        return f"s3://{self._bucket}/{self._prefix}{path}"
