"""Files leave the source only when a checked copy is there, whatever happens in between (moto's S3, DynamoDB Local)."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import Mock

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws
from mypy_boto3_dynamodb import DynamoDBClient

from kpi_common.errors import AppError, MovedAwayError, UsageError
from kpi_common.files import StoredFile, bucket_and_key
from kpi_common.s3_files import COPY_IN_ONE_BYTES, S3Storage
from kpi_pipeline.files import archive
from kpi_pipeline.files.archive import clean_up, move_done
from kpi_pipeline.files.arrivals import SourceFile, list_source, run_folder, write_run_manifest
from kpi_pipeline.files.claims import PROCESSING, REJECTED, SUCCESS, ClaimLedger, Entry
from kpi_pipeline.files.input_checks import all_streams_bad, check_header, check_inputs
from kpi_pipeline.files.release import release
from kpi_pipeline.settings import PipelineSettings, load_delivery_settings, load_pipeline_settings

pytestmark = pytest.mark.integration

BUCKET = "music"
KEYS = {"aws_access_key_id": "x", "aws_secret_access_key": "x"}
GOOD = b"user_id,track_id,listen_time\n1,t1,2024-06-25 10:00:00\n"


@pytest.fixture
def ledger(dynamodb: DynamoDBClient, table_prefix: str) -> ClaimLedger:
    made = ClaimLedger(load_delivery_settings(prefix=table_prefix), dynamodb)
    made.ensure_table()
    return made


@pytest.fixture
def s3(ledger: ClaimLedger) -> Iterator[Any]:  # noqa: ARG001 (DynamoDB Local first: moto is for S3 alone)
    with mock_aws(config={"core": {"passthrough": {"urls": [r"http://127\.0\.0\.1.*"]}}}):
        client = boto3.client("s3", region_name="us-east-1", **KEYS)
        client.create_bucket(Bucket=BUCKET)
        yield client


@pytest.fixture
def buckets(s3: Any) -> S3Storage:
    return S3Storage(s3)


@pytest.fixture
def settings() -> PipelineSettings:
    needed = {
        "bucket_name": BUCKET,
        "emr_application_id": "a",
        "execution_role_arn": "arn:aws:iam::123456789012:role/x",
    }
    return load_pipeline_settings(needed.get)


def put(s3: Any, name: str, content: bytes = GOOD) -> None:
    s3.put_object(Bucket=BUCKET, Key=f"raw/{name}", Body=content)


def keys(s3: Any, prefix: str = "") -> list[str]:
    return [entry["Key"] for entry in s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])]


def settle(ledger: ClaimLedger, file: SourceFile, status: str, reason: str = "") -> None:
    entry = Entry(file.name, PROCESSING, file.stored.etag, file.stored.size, "run")
    before = ledger.read([file.name]).get(file.name)
    assert ledger.claim(entry, before)
    (claimed,) = ledger.read([file.name]).values()
    assert ledger.settle(claimed, status, reason=reason)


NAMES = ["streams/a.csv", "streams/sub/b c+ü%20.csv", "streams/c.csv.gz", "songs/s.csv"]


def test_processed_streams_are_archived_and_reference_data_stays(
    s3: Any, buckets: S3Storage, ledger: ClaimLedger, settings: PipelineSettings
) -> None:
    for name in NAMES:
        put(s3, name, name.encode())
    s3.put_object(Bucket=BUCKET, Key="raw/streams/", Body=b"")
    files = list_source(buckets, settings)
    assert sorted(file.name for file in files) == sorted(NAMES)
    for file in files:
        settle(ledger, file, SUCCESS)
    moved = move_done(buckets, ledger, settings, files)
    assert sorted(moved.archived) == sorted(NAMES[:3])
    assert keys(s3, "raw/") == ["raw/songs/s.csv", "raw/streams/"], "folders stay"
    for name, uri in moved.archived.items():
        assert buckets.read(uri) == name.encode()
        metadata = s3.head_object(Bucket=BUCKET, Key=bucket_and_key(uri)[1])["Metadata"]
        assert metadata["source-modified-at"]


def test_a_rejected_file_goes_with_its_reason(
    s3: Any, buckets: S3Storage, ledger: ClaimLedger, settings: PipelineSettings
) -> None:
    put(s3, "streams/a.csv")
    (file,) = list_source(buckets, settings)
    settle(ledger, file, REJECTED, "not_utf8: byte 0xff")
    samples = {"streams/a.csv": {"samples": [{"raw": "?", "reasons": ["x"]}]}}
    moved = move_done(buckets, ledger, settings, [file], details=samples)
    reason = json.loads(buckets.read(f"{moved.rejected['streams/a.csv']}.reason.json") or b"")
    assert (reason["reason"], reason["samples"]) == ("not_utf8: byte 0xff", samples["streams/a.csv"]["samples"])
    assert keys(s3, "raw/") == []


def test_a_rejected_file_can_be_released(
    s3: Any, buckets: S3Storage, ledger: ClaimLedger, settings: PipelineSettings
) -> None:
    name = "streams/sub/ä 1.csv"
    put(s3, name)
    (file,) = list_source(buckets, settings)
    settle(ledger, file, REJECTED, "not_utf8")
    move_done(buckets, ledger, settings, [file])
    places = (settings.source, f"s3://{BUCKET}/rejected")
    with pytest.raises(UsageError, match="not in the ledger"):
        release(buckets, ledger, *places, "streams/other.csv")
    release(buckets, ledger, *places, name)
    assert [found.name for found in list_source(buckets, settings)] == [name]
    assert keys(s3, "rejected/") == []
    assert ledger.read([name]) == {}
    with pytest.raises(UsageError, match="not in the ledger"):
        release(buckets, ledger, *places, name)


def test_what_an_interrupted_move_left_is_moved_by_the_next(
    s3: Any, buckets: S3Storage, ledger: ClaimLedger, settings: PipelineSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        put(s3, f"streams/{number}.csv", b"x" * number)
    files = list_source(buckets, settings)
    for file in files:
        settle(ledger, file, SUCCESS)
    delete, done = S3Storage.delete, []

    def die(self: S3Storage, source: Any) -> None:
        if len(done) == 2:
            raise RuntimeError("pulled the plug")
        done.append(source)
        delete(self, source)

    monkeypatch.setattr("kpi_pipeline.files.archive.AT_ONCE", 1)
    monkeypatch.setattr(S3Storage, "delete", die)
    with pytest.raises(RuntimeError, match="pulled"):
        move_done(buckets, ledger, settings, files)
    monkeypatch.setattr(S3Storage, "delete", delete)
    assert len(keys(s3, "raw/")) == 4
    move_done(buckets, ledger, settings, list_source(buckets, settings))
    assert keys(s3, "raw/") == []
    assert len(keys(s3, "archive/")) == 6, "none twice"


def test_a_file_that_changed_meanwhile_is_left_alone(
    s3: Any, buckets: S3Storage, ledger: ClaimLedger, settings: PipelineSettings
) -> None:
    put(s3, "streams/a.csv", b"old")
    (listed,) = list_source(buckets, settings)
    settle(ledger, listed, SUCCESS)
    put(s3, "streams/a.csv", b"new")
    moved = move_done(buckets, ledger, settings, [listed])
    assert (moved.archived, moved.changed) == ({}, ["streams/a.csv"])
    assert buckets.read(f"s3://{BUCKET}/raw/streams/a.csv") == b"new"
    with pytest.raises(MovedAwayError):
        buckets.delete(listed.stored)
    assert move_done(buckets, ledger, settings, list_source(buckets, settings)).archived == {}


def test_a_file_whose_deletion_lost_its_reply_is_gone_and_that_is_fine(
    s3: Any, buckets: S3Storage, settings: PipelineSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then botocore sends the request again, and S3 finds nothing that it could compare the etag with."""
    put(s3, "streams/a.csv")
    (file,) = list_source(buckets, settings)
    delete = s3.delete_object

    def twice(**request: Any) -> Any:
        delete(**request)
        raise ClientError({"Error": {"Code": "NoSuchKey"}}, "DeleteObject")

    monkeypatch.setattr(s3, "delete_object", twice)
    buckets.delete(file.stored)
    assert keys(s3, "raw/") == []


def test_two_contents_of_a_name_on_one_day_are_both_kept(
    s3: Any, buckets: S3Storage, ledger: ClaimLedger, settings: PipelineSettings
) -> None:
    for content in (b"one", b"two", b"two"):
        put(s3, "streams/a.csv", content)
        (file,) = list_source(buckets, settings)
        settle(ledger, file, SUCCESS)
        move_done(buckets, ledger, settings, [file])
    kept = {buckets.read(f"s3://{BUCKET}/{key}") for key in keys(s3, "archive/")}
    assert kept == {b"one", b"two"}
    assert len(keys(s3, "archive/")) == 2


def test_a_copy_that_is_not_the_same_keeps_the_source(
    s3: Any, buckets: S3Storage, ledger: ClaimLedger, settings: PipelineSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(s3, "streams/a.csv")
    (file,) = list_source(buckets, settings)
    settle(ledger, file, SUCCESS)
    monkeypatch.setattr(S3Storage, "find", lambda *_: StoredFile("", "", 1))
    with pytest.raises(AppError, match="1 bytes after copying"):
        move_done(buckets, ledger, settings, [file])
    assert keys(s3, "raw/") == ["raw/streams/a.csv"]
    assert file.stored.size < COPY_IN_ONE_BYTES


def test_intermediate_files_are_deleted(s3: Any, buckets: S3Storage, settings: PipelineSettings) -> None:
    put(s3, "streams/a.csv")
    for run in ("one", "two"):
        write_run_manifest(buckets, settings, run, list_source(buckets, settings))
    assert clean_up(buckets, settings, run_folder(settings, "one")) == 1
    assert keys(s3, "intermediate/") == ["intermediate/runs/two/manifest.json"]
    at_once = settings.model_copy(update={"keep_intermediate_days": 0.0})
    assert clean_up(buckets, at_once, run_folder(settings, "one")) == 1


def test_headers_are_checked_before_a_job_is_paid_for(s3: Any, buckets: S3Storage, settings: PipelineSettings) -> None:
    import gzip

    contents = {
        "streams/good.csv": b"\xef\xbb\xbfuser_id,track_id,listen_time\r\n",
        "streams/packed.csv.gz": gzip.compress(GOOD * 100),
        "streams/case.csv": b"User_ID,track_id,listen_time\n",
        "streams/empty.csv": b"",
        "streams/no-gzip.csv.gz": GOOD,
        "streams/twice.csv": b"user_id,user_id,track_id,listen_time\n",
    }
    for name, content in contents.items():
        put(s3, name, content)
    files = [file.to_json() for file in list_source(buckets, settings)]
    with pytest.raises(AppError, match=r"no songs and no users: no CSV file in s3://music/raw/songs/"):
        check_inputs(buckets, settings, files)
    for dataset in ("songs", "users"):  # staged before: then none is needed in the source
        s3.put_object(Bucket=BUCKET, Key=f"lake/staged/{dataset}/_delta_log/0.json", Body=b"{}")
    problems = {problem.name: problem.reason for problem in check_inputs(buckets, settings, files)}
    assert problems.keys() == contents.keys() - {"streams/good.csv", "streams/packed.csv.gz"}
    assert "lacks required columns: `user_id`" in problems["streams/case.csv"]
    assert not all_streams_bad(files, check_inputs(buckets, settings, files))
    bad = [file for file in files if file["name"] in problems]
    assert all_streams_bad(bad, check_inputs(buckets, settings, bad))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (f"streams/{'a' * 1000}.csv", "its key in s3://music/archive would have"),
        (f"streams/{'é' * 400}.csv", "its notes would have"),
    ],
    ids=["key", "notes"],
)
def test_a_name_that_the_archive_can_not_hold_is_told_and_left(
    s3: Any, buckets: S3Storage, ledger: ClaimLedger, settings: PipelineSettings, name: str, told: str
) -> None:
    put(s3, name)
    put(s3, "streams/other.csv")
    files = list_source(buckets, settings)
    for file in files:
        settle(ledger, file, SUCCESS)
    for _ in range(2):  # and so in every later run
        moved = move_done(buckets, ledger, settings, list_source(buckets, settings))
        assert list(moved.left) == [name]
        assert told in moved.left[name]
    assert keys(s3, "raw/") == [f"raw/{name}"], "the other one is archived"


def test_headers_are_looked_at_as_the_application_does(s3: Any, buckets: S3Storage, settings: PipelineSettings) -> None:
    contents = {
        "joined.csv.gz": gzip.compress(b"") + gzip.compress(GOOD),
        "empty.csv.gz": gzip.compress(b"") * 2,
        "person.csv": b"7,Jane Doe,1999\n",
        "_hidden.csv": GOOD,
        "many.csv.gz": gzip.compress(b"") * 3,
    }
    for name, content in contents.items():
        put(s3, f"streams/{name}", content)
    few = settings.model_copy(update={"job_settings": {"max_gzip_members": "2"}})
    found = {
        name: check_header(
            buckets,
            few if name == "many.csv.gz" else settings,
            {"dataset": "streams", "name": f"streams/{name}", "path": f"s3://{BUCKET}/raw/streams/{name}"},
        )
        for name in contents
    }
    reasons = {name: problem.reason for name, problem in found.items() if problem is not None}
    assert reasons.keys() == contents.keys() - {"joined.csv.gz"}
    assert reasons["empty.csv.gz"] == "empty_file: the file is empty"
    assert "is it a row of data?" in reasons["person.csv"]
    assert "Jane" not in reasons["person.csv"]
    assert reasons["_hidden.csv"].startswith("hidden_name: ")
    assert reasons["many.csv.gz"].startswith("too_many_gzip_members: ")


def test_a_file_that_may_not_be_read_holds_up_no_other_one(
    s3: Any, buckets: S3Storage, ledger: ClaimLedger, settings: PipelineSettings
) -> None:
    s3.put_object(Bucket=BUCKET, Key="raw/streams/cold.csv", Body=GOOD, StorageClass="GLACIER")
    put(s3, "streams/good.csv")
    s3.put_object(Bucket=BUCKET, Key="lake/staged/songs/_delta_log/0.json", Body=b"{}")
    s3.put_object(Bucket=BUCKET, Key="lake/staged/users/_delta_log/0.json", Body=b"{}")
    files = list_source(buckets, settings)
    assert check_inputs(buckets, settings, [file.to_json() for file in files]) == []  # the job rejects it
    for file in files:
        settle(ledger, file, REJECTED if "cold" in file.name else SUCCESS, "unreadable_file: InvalidObjectState")
    for _ in range(2):  # and so in every later run
        moved = move_done(buckets, ledger, settings, list_source(buckets, settings))
        assert list(moved.left) == ["streams/cold.csv"]
    assert keys(s3, "raw/") == ["raw/streams/cold.csv"], "the other one is archived"


def test_old_reasons_of_rejected_files_are_deleted_and_the_files_stay(
    s3: Any, buckets: S3Storage, settings: PipelineSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("a.csv", "a.csv.reason.json"):
        s3.put_object(Bucket=BUCKET, Key=f"rejected/streams/2024-06-25/{key}", Body=b"{}")
    assert archive.delete_old_reasons(buckets, settings) == 0
    later = datetime.now(UTC) + timedelta(days=settings.quarantine_days, seconds=1)
    monkeypatch.setattr(archive, "datetime", Mock(now=lambda _: later))
    assert archive.delete_old_reasons(buckets, settings.model_copy(update={"quarantine_days": 0})) == 0
    assert archive.delete_old_reasons(buckets, settings) == 1
    assert keys(s3, "rejected/") == ["rejected/streams/2024-06-25/a.csv"]
