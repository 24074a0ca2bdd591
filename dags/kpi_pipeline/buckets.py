"""Files in S3: list, read, write, and move so that nothing is lost on the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from botocore.exceptions import ClientError

from kpi_pipeline.aws import error_code, plain_aws_errors, s3_client
from kpi_pipeline.errors import MovedAwayError, PipelineError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

GONE = frozenset({"NoSuchKey", "404", "NotFound"})
CHANGED = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict"})
COPY_IN_ONE_BYTES = 5 * 1024**3  # what CopyObject takes
ETAG_METADATA = "source-etag"


@dataclass(frozen=True)
class StoredObject:
    """One object as a listing shows it; `name` is its key below the listed prefix."""

    name: str
    bucket: str
    key: str
    size: int
    etag: str
    modified_at: datetime

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


class Buckets:
    """All of S3 that the pipeline needs, through one client."""

    def __init__(self, client: S3Client | None = None) -> None:
        self._client = client or s3_client()

    def list(self, uri: str) -> Iterator[StoredObject]:
        """Yield the objects below an address, without those that stand for empty folders."""
        bucket, prefix = split(uri)
        prefix = f"{prefix}/" if prefix else ""
        with plain_aws_errors(uri):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
                for entry in page.get("Contents", []):
                    if not entry["Key"].endswith("/"):
                        yield StoredObject(
                            entry["Key"][len(prefix) :],
                            bucket,
                            entry["Key"],
                            entry["Size"],
                            entry["ETag"].strip('"'),
                            entry["LastModified"].astimezone(timezone.utc),
                        )

    def is_empty(self, uri: str) -> bool:
        """Tell whether no object is below an address."""
        return next(self.list(uri), None) is None

    def head(self, bucket: str, key: str) -> dict[str, Any] | None:
        """Return what S3 tells of an object, or None where there is none."""
        with plain_aws_errors(f"s3://{bucket}/{key}"):
            try:
                return dict(self._client.head_object(Bucket=bucket, Key=key))
            except ClientError as error:
                if error_code(error) in GONE:
                    return None
                raise

    def read(self, uri: str, first_bytes: int | None = None) -> bytes | None:
        """Return an object's bytes (or its first ones), or None where there is none."""
        bucket, key = split(uri)
        wanted: dict[str, Any] = {} if first_bytes is None else {"Range": f"bytes=0-{first_bytes - 1}"}
        with plain_aws_errors(uri):
            try:
                return self._client.get_object(Bucket=bucket, Key=key, **wanted)["Body"].read()
            except ClientError as error:
                if error_code(error) in GONE:
                    return None
                if error_code(error) in ("InvalidRange", "416"):
                    return b""
                raise

    def write(self, uri: str, content: bytes, content_type: str = "application/json") -> None:
        """Put an object."""
        bucket, key = split(uri)
        with plain_aws_errors(uri):
            self._client.put_object(Bucket=bucket, Key=key, Body=content, ContentType=content_type)

    def delete_all(self, uri: str) -> int:
        """Delete all objects below an address and return how many there were."""
        keys = [stored.key for stored in self.list(uri)]
        bucket, _ = split(uri)
        with plain_aws_errors(uri):
            for start in range(0, len(keys), 1000):
                batch: Any = [{"Key": key} for key in keys[start : start + 1000]]
                answer = self._client.delete_objects(Bucket=bucket, Delete={"Objects": batch, "Quiet": True})
                for failed in answer.get("Errors", []):
                    raise PipelineError(f"s3://{bucket}/{failed.get('Key')}: not deleted: {failed.get('Message')}")
        return len(keys)

    def delete_object(self, uri: str) -> None:
        """Delete one object of our own, whatever is in it."""
        bucket, key = split(uri)
        with plain_aws_errors(uri):
            self._client.delete_object(Bucket=bucket, Key=key)

    def copy(self, source: StoredObject, uri: str, notes: Mapping[str, str]) -> None:
        """Copy exactly the version of the source that was listed, and check the copy.

        Args:
            source: from a listing; when its content has changed since, nothing is copied.
            uri: where to.
            notes: kept with the copy as its metadata.

        Raises:
            MovedAwayError: the source is gone or has changed.
            PipelineError: the copy is not the same.
        """
        bucket, key = split(uri)
        metadata = {name: quote(value, safe="/ :+-_.") for name, value in notes.items()}
        metadata[ETAG_METADATA] = source.etag
        with plain_aws_errors(uri):
            try:
                if source.size < COPY_IN_ONE_BYTES:
                    self._client.copy_object(
                        Bucket=bucket,
                        Key=key,
                        CopySource={"Bucket": source.bucket, "Key": source.key},
                        CopySourceIfMatch=source.etag,
                        Metadata=metadata,
                        MetadataDirective="REPLACE",
                    )
                else:
                    extra: Any = {"Metadata": metadata, "MetadataDirective": "REPLACE"}
                    extra["CopySourceIfMatch"] = source.etag
                    self._client.copy({"Bucket": source.bucket, "Key": source.key}, bucket, key, ExtraArgs=extra)
            except ClientError as error:
                if error_code(error) in GONE | CHANGED:
                    raise MovedAwayError(f"{source.uri} is gone or has changed since it was listed") from error
                raise
        found = self.head(bucket, key)
        if found is None or found["ContentLength"] != source.size:
            size = None if found is None else found["ContentLength"]
            raise PipelineError(f"{uri} has {size} bytes after copying {source.uri}, which has {source.size}")

    def delete(self, source: StoredObject) -> None:
        """Delete exactly the version of an object that was listed.

        Raises:
            MovedAwayError: it has other content by now; that is left alone.
        """
        found = self.head(source.bucket, source.key)
        if found is None:
            return
        if found["ETag"].strip('"') != source.etag:
            raise MovedAwayError(f"{source.uri} has changed since it was listed")
        with plain_aws_errors(source.uri):
            try:
                self._client.delete_object(Bucket=source.bucket, Key=source.key, IfMatch=f'"{source.etag}"')
            except ClientError as error:
                if error_code(error) in GONE:
                    return  # deleted by a request whose reply was lost, or by somebody else: gone is what it should be
                if error_code(error) in CHANGED:
                    raise MovedAwayError(f"{source.uri} has changed since it was listed") from error
                raise


def split(uri: str) -> tuple[str, str]:
    """Return bucket and key of an `s3://` address."""
    parts = urlsplit(uri, allow_fragments=False)
    if parts.scheme != "s3" or not parts.netloc:
        raise PipelineError(f"{uri}: expected s3://bucket/key")
    return parts.netloc, uri.removeprefix(f"s3://{parts.netloc}").strip("/")
