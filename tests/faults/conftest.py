"""Fixtures of the tests with faults: what an undisturbed pair of runs leaves, and a table of what was tried."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer
from mypy_boto3_dynamodb import DynamoDBClient

from tests.faults.bucket import QUICK, RunOfDag, client_of
from tests.faults.harness import End, Workplace, end_of
from tests.faults.report import ROWS, rows_of
from tests.faults.sample import Sample, write_sample
from tests.support.dynamodb_fixtures import dynamodb, dynamodb_server, faulty_dynamodb, table_prefix
from tools.dynamodb_local import DynamoDBLocal
from tools.spark_submit import ROOT

__all__ = ["dynamodb", "dynamodb_server", "faulty_dynamodb", "table_prefix"]

Tell = Callable[..., None]


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Tell:
    """Add a row to the table."""

    def add(tried: str, note: str = "", *, equal: bool, count: int = 1) -> None:
        topic = request.path.stem.removeprefix("test_").replace("_", " ")
        request.node.user_properties.append((ROWS, rows_of(topic, tried, note, count, equal=equal)))

    return add


@dataclass(frozen=True)
class Undisturbed:
    """What runs leave that nobody disturbs: of the first day, and of the second. Each is made once for all workers."""

    sample: Sample
    folder: Path
    client: DynamoDBClient
    prefix: str

    def lake(self, day: int) -> Path:
        """The lake as the day's run left it, not delivered."""
        place = Workplace(self.folder / f"day-{day}")
        with _alone(self.folder / f"lock-{day}"):
            if not (place.folder / "seconds").exists():
                shutil.rmtree(place.folder, ignore_errors=True)
                place.folder.mkdir()
                if day:
                    shutil.copytree(self.lake(day - 1), place.lake)
                started = time.monotonic()
                source = (self.sample.first, self.sample.second)[day]
                place.run_well(["run", "--input", str(source)], f"undisturbed-{day}")
                (place.folder / "seconds").write_text(str(time.monotonic() - started))
        return place.lake

    def seconds(self, day: int) -> float:
        """How long the day's run took."""
        return float((self.lake(day).parent / "seconds").read_text())

    def end(self, day: int) -> End:
        """The end after the day's run and its delivery."""
        place = Workplace(self.folder / f"{self.prefix}{day}")
        shutil.copytree(self.lake(day), place.lake)
        place.deliver(f"{self.prefix}undisturbed-{day}-")
        end = end_of(place, self.client, f"{self.prefix}undisturbed-{day}-")
        shutil.rmtree(place.folder)
        return end

    def lake_after_first(self, place: Workplace, prefix: str) -> Workplace:
        """Put the lake of the first day into a workplace, and deliver it."""
        shutil.copytree(self.lake(0), place.lake)
        place.deliver(prefix)
        return place


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """The input of both days."""
    return write_sample(tmp_path_factory.mktemp("input"))


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    """An empty workplace."""
    return Workplace(tmp_path)


@pytest.fixture
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, sample: Sample, dynamodb: DynamoDBClient, table_prefix: str
) -> Undisturbed:
    """Runs that nobody disturbs, delivered to tables of this test's own."""
    folder = _shared(tmp_path_factory) / "undisturbed"
    folder.mkdir(exist_ok=True)
    return Undisturbed(sample, folder, dynamodb, table_prefix)


def _shared(factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this test run share."""
    base = factory.getbasetemp()
    return base.parent if base.name.startswith("popen-") else base


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One process at a time."""
    with lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@pytest.fixture
def finish(
    place: Workplace, dynamodb: DynamoDBClient, table_prefix: str, undisturbed: Undisturbed
) -> Callable[[int], list[str]]:
    """Deliver what is there and return how the end differs from that of the undisturbed runs (0 or 1)."""

    def compare(day: int) -> list[str]:
        place.deliver(table_prefix)
        return end_of(place, dynamodb, table_prefix).differences(undisturbed.end(day))

    return compare


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Moto's S3 on this machine."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    yield f"http://127.0.0.1:{port}"
    server.stop()


@pytest.fixture
def new_run(
    dynamodb: DynamoDBClient, dynamodb_server: DynamoDBLocal, s3_server: str, tmp_path: Path
) -> Callable[..., RunOfDag]:
    """Make a run of the DAG with a bucket and tables of its own; other endpoints may be named."""

    def make(**endpoints: str) -> RunOfDag:
        name = f"run-{uuid.uuid4().hex[:12]}"
        folder = tmp_path / name
        folder.mkdir()
        environment = {
            **os.environ,
            **dynamodb_server.environment,
            **QUICK,
            "AWS_ENDPOINT_URL_S3": s3_server,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'dags'}",
            **endpoints,
        }
        run = RunOfDag(Workplace(folder), client_of(s3_server), dynamodb, environment, name)
        run.set_up()
        return run

    return make


@pytest.fixture
def undisturbed_tasks(new_run: Callable[..., RunOfDag]) -> dict[str, Any]:
    """The end of a run of the DAG that nobody disturbs."""
    if not _END_OF_TASKS:
        run = new_run()
        run.end_well()
        _END_OF_TASKS.update(run.end())
    return _END_OF_TASKS


_END_OF_TASKS: dict[str, Any] = {}


@dataclass(frozen=True)
class InS3:
    """A bucket for a lake; `download` brings the lake to the disk, where it is compared."""

    client: Any
    bucket: str
    local: Workplace
    endpoint: str

    def is_lake(self, method: str, path: str) -> bool:
        """Whether a request writes a file of the lake."""
        return method == "PUT" and path.startswith(f"/{self.bucket}/lake/")

    def place(self, endpoint: str | None = None) -> Workplace:
        """Return the workplace with its lake in S3, reached by this endpoint."""
        keys = {"AWS_ENDPOINT_URL_S3": endpoint or self.endpoint, "AWS_ACCESS_KEY_ID": "any"}
        environment = {**keys, "AWS_SECRET_ACCESS_KEY": "any", "AWS_REGION": "eu-central-1"}
        return Workplace(self.local.folder, environment, f"s3://{self.bucket}/lake", ("delta", "s3"))

    def download(self) -> None:
        """Bring the lake to the disk."""
        for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix="lake/"):
            for entry in page.get("Contents", []):
                if not entry["Key"].endswith("/"):
                    path = self.local.folder / entry["Key"]
                    path.parent.mkdir(parents=True, exist_ok=True)
                    self.client.download_file(self.bucket, entry["Key"], str(path))


@pytest.fixture
def in_s3(place: Workplace, s3_server: str, table_prefix: str) -> InS3:
    """An empty bucket."""
    client, bucket = client_of(s3_server), f"{table_prefix}lake"
    client.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    return InS3(client, bucket, place, s3_server)
