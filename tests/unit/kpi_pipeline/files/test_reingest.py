"""Which version of each file the manifest for a lost lake names."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import jsonschema
import pytest
from moto import mock_aws

from kpi_common.conf_files import load_schema
from kpi_common.errors import UsageError
from kpi_common.s3_files import S3Storage
from kpi_pipeline.files.reingest import write_reingest_manifest


@pytest.fixture
def s3() -> Iterator[Any]:
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")  # noqa: S106
        client.create_bucket(Bucket="music")
        yield client


def archived(s3: Any, key: str, name: str, modified: str) -> None:
    s3.put_object(
        Bucket="music",
        Key=f"archive/{key}",
        Body=key.encode(),
        Metadata={"source-name": name, "source-modified-at": modified},
    )


def entries(s3: Any, tmp_path: Path) -> dict[str, dict[str, Any]]:
    manifest = tmp_path / "m.json"
    count = write_reingest_manifest(S3Storage(s3), "s3://music/raw", "s3://music/archive/", str(manifest))
    content = json.loads(manifest.read_text("utf-8"))
    jsonschema.validate(content, load_schema("run_manifest"))
    assert len(content["files"]) == count
    return {entry["name"]: entry for entry in content["files"]}


def test_the_newest_version_of_each_file_counts_under_its_own_name_and_time(s3: Any, tmp_path: Path) -> None:
    archived(s3, "streams/2024-06-26/a.csv", "streams/a.csv", "2024-06-25T12:00:00+00:00")
    archived(s3, "streams/2024-06-25/a.csv", "streams/a.csv", "2024-06-25T10:00:00+00:00")
    archived(s3, "streams/2024-06-25/a.1234abcd.csv", "streams/a.csv", "2024-06-25T11:00:00+00:00")
    archived(s3, "streams/2024-06-25/x/%C3%A4 1.csv", "streams/x/%C3%A4 1.csv", "2024-06-25T10:00:00+00:00")
    s3.put_object(Bucket="music", Key="raw/songs/s.csv", Body=b"songs")
    found = entries(s3, tmp_path)
    assert {name: entry["path"] for name, entry in found.items()} == {
        "songs/s.csv": "s3://music/raw/songs/s.csv",
        "streams/a.csv": "s3://music/archive/streams/2024-06-26/a.csv",
        "streams/x/ä 1.csv": "s3://music/archive/streams/2024-06-25/x/%C3%A4 1.csv",
    }
    assert found["streams/a.csv"]["modified_at"] == "2024-06-25T12:00:00+00:00"
    assert found["streams/a.csv"]["size"] == len("streams/2024-06-26/a.csv")


def test_a_file_that_is_still_in_the_source_is_newer(s3: Any, tmp_path: Path) -> None:
    archived(s3, "streams/2024-06-25/a.csv", "streams/a.csv", "2024-06-25T10:00:00+00:00")
    s3.put_object(Bucket="music", Key="raw/streams/a.csv", Body=b"corrected")
    assert entries(s3, tmp_path)["streams/a.csv"]["path"] == "s3://music/raw/streams/a.csv"


def test_a_file_that_the_pipeline_did_not_archive_keeps_its_name(s3: Any, tmp_path: Path) -> None:
    s3.put_object(Bucket="music", Key="archive/streams/old/a.csv", Body=b"x")
    s3.put_object(Bucket="music", Key="archive/streams/notes.txt", Body=b"x")
    assert list(entries(s3, tmp_path)) == ["streams/old/a.csv"]


def test_nothing_to_take_in_is_a_mistake(s3: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds a CSV file"):
        entries(s3, tmp_path)
