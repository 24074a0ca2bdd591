"""Files in S3, as moto has it: each condition holds, and each failure names the URI."""

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from kpi_common.aws import shared_s3_client, use_sessions
from kpi_common.errors import AwsError, MovedAwayError, StorageError, UsageError
from kpi_common.files import open_lake, storage_for
from kpi_common.s3_files import S3Storage

URI = "s3://music/a b/k+1.csv"


@pytest.fixture
def s3() -> Iterator[Any]:
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")  # noqa: S106
        client.create_bucket(Bucket="music")
        yield client


@pytest.fixture
def store(s3: Any) -> S3Storage:
    return S3Storage(s3)


def test_what_is_written_is_read_found_and_listed(store: S3Storage) -> None:
    for name in ("x/1", "x/y/2", "xy/3", "x/"):
        store.write(f"s3://music/{name}", name.encode())
    assert {stored.relative: stored.size for stored in store.list_files("s3a://music/x/")} == {"1": 3, "y/2": 5}
    assert [stored.uri for stored in store.list_files("s3a://music/xy")] == ["s3a://music/xy/3"]
    assert (store.read("s3://music/x/1"), store.read("s3://music/x/1", 2)) == (b"x/1", b"x/")
    store.write("s3://music/empty", b"")
    assert store.read("s3://music/empty", 10) == b""
    assert store.read("s3://music/none") is store.find("s3://music/none") is store.notes("s3://music/none") is None
    assert store.delete_folder("s3://music/x") == 3 - 1
    assert [stored.relative for stored in store.list_files("s3://music")] == ["empty", "xy/3"]


def test_a_conditional_write_takes_what_it_saw_and_nothing_else(store: S3Storage) -> None:
    first = store.write_if(URI, b"1", None)
    assert store.read_tagged(URI) == (b"1", first)
    found = store.find(URI)
    assert found is not None
    assert found.etag == first
    assert store.write_if(URI, b"2", None) is None
    second = store.write_if(URI, b"2", first)
    assert second not in (None, first)
    assert store.write_if(URI, b"3", first) is None
    assert store.read(URI) == b"2"
    assert not store.delete_if(URI, str(first))
    assert store.read(URI) == b"2"
    assert store.delete_if(URI, str(second))
    assert store.delete_if(URI, str(second)), "gone is what it should be"
    assert store.write_if(URI, b"4", second) is None, "a file that is gone is not written anew"


def test_an_object_that_is_rewritten_keeps_its_notes(store: S3Storage) -> None:
    store.write(URI, b"old")
    (listed,) = store.list_files("s3://music/a b")
    store.copy(listed, "s3://music/to/k", {"source-name": "streams/ä.csv"})
    assert store.rewrite_if("s3://music/to/k", b"new", "other") is None
    assert store.rewrite_if("s3://music/none", b"new", "other") is None
    tag = store.rewrite_if("s3://music/to/k", b"new", str(listed.etag))
    assert store.read_tagged("s3://music/to/k") == (b"new", tag)
    assert store.notes("s3://music/to/k") == {"source-name": "streams/ä.csv", "source-etag": listed.etag}


def test_a_copy_has_notes_and_is_of_the_listed_version_only(
    store: S3Storage, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Moto doesn't look at the condition of a copy, as S3 does: so it is played here."""
    store.write(URI, b"old")
    (listed,) = store.list_files("s3://music/a b")
    store.copy(listed, "s3://music/to/k", {"source-name": "streams/ä %20.csv"})
    assert store.notes("s3://music/to/k") == {"source-name": "streams/ä %20.csv", "source-etag": listed.etag}
    store.write(URI, b"new")
    copy_object = s3.copy_object

    def checked(CopySource: Any, CopySourceIfMatch: str, **request: Any) -> Any:  # noqa: N803 (S3's names)
        if s3.head_object(**CopySource)["ETag"].strip('"') != CopySourceIfMatch:
            raise ClientError({"Error": {"Code": "PreconditionFailed"}}, "CopyObject")
        return copy_object(CopySource=CopySource, CopySourceIfMatch=CopySourceIfMatch, **request)

    monkeypatch.setattr(s3, "copy_object", checked)
    for away in (lambda: store.copy(listed, "s3://music/to/2", {}), lambda: store.delete(listed)):
        with pytest.raises(MovedAwayError, match=r"s3://music/a b/k\+1\.csv .*changed since it was listed"):
            away()
    assert (store.find("s3://music/to/2"), store.read(URI)) == (None, b"new")


def test_a_deletion_that_lost_its_reply_is_one(store: S3Storage, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tag = store.write_if(URI, b"1", None)
    delete = s3.delete_object

    def twice(**request: Any) -> Any:
        delete(**request)
        raise ClientError({"Error": {"Code": "NoSuchKey"}}, "DeleteObject")

    monkeypatch.setattr(s3, "delete_object", twice)
    assert store.delete_if(URI, str(tag))


def test_a_server_without_conditional_deletes_does_no_harm(
    store: S3Storage, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write(URI, b"1")
    delete = s3.delete_object
    monkeypatch.setattr(s3, "delete_object", lambda IfMatch, **request: delete(**request))  # noqa: ARG005, N803
    assert not store.delete_if(URI, "another")
    assert store.read(URI) == b"1"


def test_each_failure_names_the_uri(store: S3Storage) -> None:
    uri = "s3://no-such-bucket/a b/k"
    calls = (
        lambda: list(store.list_files(uri)),
        lambda: store.read(uri),
        lambda: store.write(uri, b""),
        lambda: store.write_if(uri, b"", None),
        lambda: store.delete_folder(uri),
    )
    for call in calls:
        with pytest.raises(AwsError, match=r"^s3://no-such-bucket/a b/k: NoSuchBucket: "):
            call()
    with pytest.raises(UsageError, match="s3:///k: expected s3://bucket/prefix"):
        store.read("s3:///k")


def test_a_part_that_is_not_deleted_is_an_error(store: S3Storage, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write(URI, b"1")
    monkeypatch.setattr(s3, "delete_objects", lambda **_: {"Errors": [{"Key": "k", "Message": "Access Denied"}]})
    with pytest.raises(StorageError, match="s3://music/k: not deleted: Access Denied"):
        store.delete_folder("s3://music/a b")


def test_sessions_of_others_make_the_client(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    made: list[boto3.session.Session] = []

    def session() -> boto3.session.Session:
        made.append(boto3.session.Session("x", "x", region_name="eu-central-1"))
        return made[-1]

    from kpi_common import aws

    before = aws._new_session
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    assert shared_s3_client().meta.region_name == "us-east-1"
    use_sessions(session)
    try:
        storage_for(URI).write(URI, b"1")
        assert open_lake("s3://music/a b").read("k+1.csv") == b"1"
        assert shared_s3_client().meta.region_name == "eu-central-1"
        assert len(made) == 1, "one client serves all"
        with pytest.raises(FileNotFoundError, match="s3://music/a b/none"):
            open_lake("s3://music/a b").read("none")
    finally:
        use_sessions(before)
