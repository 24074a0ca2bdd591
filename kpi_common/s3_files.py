"""Files in S3; see `files`. Apart from it, as S3's library takes as long to load as all of our modules together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from urllib.parse import quote, unquote

from botocore.exceptions import ClientError

from kpi_common.aws import error_code, plain_aws_errors, shared_s3_client
from kpi_common.errors import MovedAwayError, StorageError
from kpi_common.uris import StoredFile, bucket_and_key

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

GONE = frozenset({"NoSuchKey", "404", "NotFound"})
CHANGED = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict"})
COPY_IN_ONE_BYTES = 5 * 1024**3  # what CopyObject takes
ETAG_NOTE = "source-etag"


class S3Storage:
    """S3, or a server that speaks its protocol, through the process's client or a given one."""

    def __init__(self, client: S3Client | None = None) -> None:
        self._given = client

    @property
    def _client(self) -> S3Client:
        return self._given or shared_s3_client()

    def list_files(self, folder: str, within: str | None = None) -> Iterator[StoredFile]:  # noqa: ARG002 (no links)
        """Yield all objects below a prefix; empty "folder" objects are left out."""
        bucket, prefix = bucket_and_key(folder)
        prefix = prefix.rstrip("/") + "/" if prefix else ""
        scheme = folder.partition("://")[0]
        with plain_aws_errors(folder):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
                for entry in page.get("Contents", []):
                    key = entry["Key"]
                    if not key.endswith("/"):
                        uri = f"{scheme}://{bucket}/{key}"
                        yield _stored(uri, key[len(prefix) :], entry["Size"], entry)

    def find(self, uri: str) -> StoredFile | None:
        """Return an object's size, time and etag, or None where there is no such object."""
        head = self._head(uri)
        return None if head is None else _stored(uri, uri.rpartition("/")[2], head["ContentLength"], head)

    def notes(self, uri: str) -> dict[str, str] | None:
        """Return the notes that `copy` left with an object, or None where there is no such object."""
        head = self._head(uri)
        return None if head is None else {name: unquote(value) for name, value in head.get("Metadata", {}).items()}

    def open(self, uri: str) -> BinaryIO:
        """Open an object's bytes as a stream that outlasts lost connections, not decompressed."""
        import smart_open

        with plain_aws_errors(uri):
            plain = f"s3://{uri.partition('://')[2]}"
            return smart_open.open(plain, "rb", compression="disable", transport_params={"client": self._client})

    def stream(self, uri: str) -> BinaryIO:
        """Open an object's bytes as they come, for a look at the first ones; a lost connection is an error."""
        bucket, key = bucket_and_key(uri)
        with plain_aws_errors(uri):
            return cast(BinaryIO, self._client.get_object(Bucket=bucket, Key=key)["Body"])

    def read(self, uri: str, first_bytes: int | None = None) -> bytes | None:
        """Return an object's bytes (or its first ones), or None where there is no such object."""
        found = self._get(uri, {} if first_bytes is None else {"Range": f"bytes=0-{first_bytes - 1}"})
        return None if found is None else found[0]

    def read_tagged(self, uri: str) -> tuple[bytes, str] | None:
        """Return an object's bytes and etag."""
        return self._get(uri, {})

    def write(self, uri: str, data: bytes) -> None:
        """Put an object."""
        self._put(uri, data, {})

    def write_if(self, uri: str, data: bytes, tag: str | None) -> str | None:
        """Put if the object still has this etag (None: if there is none); return the new etag, or None if not."""
        return self._put(uri, data, {"IfNoneMatch": "*"} if tag is None else {"IfMatch": f'"{tag}"'})

    def rewrite_if(self, uri: str, data: bytes, tag: str) -> str | None:
        """Put as `write_if`, with the notes that the object has; its time becomes now."""
        head = self._head(uri)
        return None if head is None else self._put(uri, data, {"IfMatch": f'"{tag}"', "Metadata": head["Metadata"]})

    def delete_if(self, uri: str, tag: str) -> bool:
        """Delete the object if it still has this etag; tell whether no object is there now.

        Not every server has conditional deletes: so the etag is looked at first too.
        """
        found = self.find(uri)
        if found is None or found.etag != tag:
            return found is None
        bucket, key = bucket_and_key(uri)
        with plain_aws_errors(uri):
            try:
                self._client.delete_object(Bucket=bucket, Key=key, IfMatch=f'"{tag}"')
            except ClientError as error:
                if error_code(error) in GONE:
                    return True  # deleted by a request whose reply was lost, or by somebody else
                if error_code(error) in CHANGED:
                    return False
                raise
        return True

    def delete(self, source: StoredFile) -> None:
        """Delete exactly the version of an object that was listed.

        Raises:
            MovedAwayError: it has other content by now; that is left alone.
        """
        if not self.delete_if(source.uri, str(source.etag)):
            raise MovedAwayError(f"{source.uri} has changed since it was listed")

    def delete_object(self, uri: str) -> None:
        """Delete one object of our own, whatever is in it."""
        bucket, key = bucket_and_key(uri)
        with plain_aws_errors(uri):
            self._client.delete_object(Bucket=bucket, Key=key)

    def delete_folder(self, folder: str) -> int:
        """Delete all objects below a prefix and return how many that were."""
        bucket, _ = bucket_and_key(folder)
        keys = [bucket_and_key(stored.uri)[1] for stored in self.list_files(folder)]
        with plain_aws_errors(folder):
            for start in range(0, len(keys), 1000):
                batch: Any = [{"Key": key} for key in keys[start : start + 1000]]
                answer = self._client.delete_objects(Bucket=bucket, Delete={"Objects": batch, "Quiet": True})
                for failed in answer.get("Errors", []):
                    raise StorageError(f"s3://{bucket}/{failed.get('Key')}: not deleted: {failed.get('Message')}")
        return len(keys)

    def copy(self, source: StoredFile, uri: str, notes: Mapping[str, str]) -> None:
        """Copy exactly the version of the source that was listed, and check the copy.

        Args:
            source: from a listing; when its content has changed since, nothing is copied.
            uri: where to.
            notes: kept with the copy, for `notes`.

        Raises:
            MovedAwayError: the source is gone or has changed.
            StorageError: the copy is not the same.
        """
        from_bucket, from_key = bucket_and_key(source.uri)
        bucket, key = bucket_and_key(uri)
        place: Any = {"Bucket": from_bucket, "Key": from_key}
        kept = {name: quote(value, safe="/ :+-_.") for name, value in {**notes, ETAG_NOTE: str(source.etag)}.items()}
        how: Any = {"CopySourceIfMatch": source.etag, "Metadata": kept, "MetadataDirective": "REPLACE"}
        with plain_aws_errors(uri):
            try:
                if source.size < COPY_IN_ONE_BYTES:
                    self._client.copy_object(Bucket=bucket, Key=key, CopySource=place, **how)
                else:
                    self._client.copy(place, bucket, key, ExtraArgs=how)
            except ClientError as error:
                if error_code(error) in GONE | CHANGED:
                    raise MovedAwayError(f"{source.uri} is gone or has changed since it was listed") from error
                raise
        found = self.find(uri)
        if found is None or found.size != source.size:
            size = None if found is None else found.size
            raise StorageError(f"{uri} has {size} bytes after copying {source.uri}, which has {source.size}")

    def _head(self, uri: str) -> dict[str, Any] | None:
        bucket, key = bucket_and_key(uri)
        with plain_aws_errors(uri):
            try:
                return dict(self._client.head_object(Bucket=bucket, Key=key))
            except ClientError as error:
                if error_code(error) in GONE:
                    return None
                raise

    def _get(self, uri: str, wanted: dict[str, Any]) -> tuple[bytes, str] | None:
        bucket, key = bucket_and_key(uri)
        with plain_aws_errors(uri):
            try:
                answer = self._client.get_object(Bucket=bucket, Key=key, **wanted)
                return answer["Body"].read(), answer["ETag"].strip('"')
            except ClientError as error:
                if error_code(error) in GONE:
                    return None
                if error_code(error) in ("InvalidRange", "416"):  # what an empty object has no first bytes for
                    return b"", ""
                raise

    def _put(self, uri: str, data: bytes, condition: dict[str, Any]) -> str | None:
        bucket, key = bucket_and_key(uri)
        kind: Any = {"ContentType": "application/json"} if key.endswith(".json") else {}
        with plain_aws_errors(uri):
            try:
                answer = self._client.put_object(Bucket=bucket, Key=key, Body=data, **kind, **condition)
            except ClientError as error:
                if condition and error_code(error) in GONE | CHANGED:
                    return None
                raise
        return answer["ETag"].strip('"')


def _stored(uri: str, relative: str, size: int, facts: Any) -> StoredFile:
    return StoredFile(uri, relative, size, facts["LastModified"].astimezone(UTC), facts["ETag"].strip('"'))
