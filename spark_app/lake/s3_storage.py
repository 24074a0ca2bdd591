"""Files in S3; see `storage`. Apart from it, as S3's library takes as long to load as all of our modules together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC
from functools import lru_cache
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from urllib.parse import urlsplit

import boto3
import smart_open
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from spark_app.errors import StorageError, UsageError
from spark_app.lake.storage import StoredFile

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


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
