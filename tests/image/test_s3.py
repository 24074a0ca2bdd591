"""Input and lake in S3, which Spark reaches by S3A: here a server on this machine."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.image.conftest import RunJob
from tests.image.lake_content import LakeContent, items_of

BUCKET = "music"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_REGION": "eu-central-1"}


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    yield f"http://127.0.0.1:{port}"
    server.stop()


@pytest.fixture(scope="module")
def s3(s3_endpoint: str, tiny_source: Path) -> Any:
    """A client; the bucket holds the input."""
    keys = {"aws_access_key_id": "any", "aws_secret_access_key": "any", "region_name": "eu-central-1"}
    client = boto3.client("s3", endpoint_url=s3_endpoint, **keys)
    client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    for path in tiny_source.rglob("*.csv"):
        client.upload_file(str(path), BUCKET, f"raw/{path.relative_to(tiny_source)}")
    return client


def test_input_and_lake_in_s3(run_job: RunJob, s3: Any, s3_endpoint: str, tiny_source: Path, tmp_path: Path) -> None:
    env = {**CREDENTIALS, "AWS_ENDPOINT_URL_S3": s3_endpoint}
    in_s3 = run_job(f"s3://{BUCKET}/lake", f"s3://{BUCKET}/raw", env=env)
    assert in_s3.exit_code == 0, in_s3.output
    on_disk = run_job(str(tmp_path / "lake"), str(tiny_source))
    assert on_disk.exit_code == 0, on_disk.output

    def read(key: str) -> bytes:
        body: bytes = s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return body

    keys = [entry["Key"] for entry in s3.list_objects_v2(Bucket=BUCKET, Prefix="lake/exports/")["Contents"]]
    (manifest_key,) = (key for key in keys if key.endswith("/manifest.json"))
    folder = manifest_key.rpartition("/")[0]
    items = items_of(json.loads(read(manifest_key)), lambda path: read(f"{folder}/{path}"))
    assert items == LakeContent(tmp_path / "lake").exports()
    assert len(items["DailyGenreKPIs"]) == 2
