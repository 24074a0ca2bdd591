"""Fixtures of the tests on a cluster: the cluster, a bucket with the input, and what runs in local mode leave."""

from __future__ import annotations

import gzip
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.sample import deliveries
from tests.faults.bucket import client_of
from tests.faults.conftest import tell
from tests.faults.content import LakeSnapshot
from tests.faults.harness import LAUNCHER, SMALL_JAVA, Plan, Process, Workplace
from tests.support.moto_server import moto_server
from tests.support.spark_cluster import PURPOSES, Cluster, submit_command
from tools.jars import fetch_jars
from tools.spark_submit import submit_environment

__all__ = ["tell"]
BUCKET = "music"
LAST_EXPORT = 2
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "driver", "AWS_SECRET_ACCESS_KEY": "any", "AWS_REGION": "eu-central-1"}
# As for many rows: what TEST_CONF has for little data the application sets by itself.
LOCAL_CONF = SMALL_JAVA | {"spark.master": "local[2]", "spark.driver.memory": "1g"}


@dataclass(frozen=True)
class Bucket:
    """A bucket with `raw-0` and `raw-1`, what is there on the first and on the second day, and lakes."""

    endpoint: str
    folder: Path

    @property
    def client(self) -> Any:
        return client_of(self.endpoint)

    def fill(self) -> None:
        """Put the input there."""
        place: Any = {"LocationConstraint": CREDENTIALS["AWS_REGION"]}
        self.client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration=place)
        files: dict[str, str] = {}
        for day, delivery in enumerate(deliveries()):
            files |= delivery.files
            for name, text in files.items():
                self.client.put_object(Bucket=BUCKET, Key=f"raw-{day}/{name}", Body=text.encode())
            time.sleep(1.1)  # S3 knows the time of an object to the second

    def place(self, lake: str) -> Workplace:
        """A folder for the driver of runs on one lake."""
        folder = self.folder / lake
        folder.mkdir(exist_ok=True)
        environment = {**CREDENTIALS, "AWS_ENDPOINT_URL_S3": self.endpoint}
        return Workplace(folder, environment, f"s3://{BUCKET}/{lake}", PURPOSES)

    def source(self, day: int) -> list[str]:
        """The command that takes in what is there on a day."""
        return ["run", "--input", f"s3://{BUCKET}/raw-{day}"]

    def keys(self, prefix: str) -> list[str]:
        """The objects below a prefix."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{prefix}/")
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def end(self, lake: str, number: int) -> dict[str, Any]:
        """All that must be equal after so many of `commands`: tables, the fate of each file, and the last export."""
        run_id = f"run-{min(number, LAST_EXPORT)}"
        keys = self.keys(lake)
        assert not [key for key in keys if key.split("/")[1] == "tmp"], "what was kept in files is left behind"
        folder = self.folder / f"{lake}-{number}"
        for key in keys:
            path = folder / key
            path.parent.mkdir(parents=True, exist_ok=True)
            if not key.endswith("/"):
                self.client.download_file(BUCKET, key, str(path))
        exports = folder / lake / "exports" / run_id
        manifest = json.loads((exports / "manifest.json").read_bytes())
        lines = [line for path in exports.rglob("*.gz") for line in gzip.decompress(path.read_bytes()).splitlines()]
        about = {name: manifest[name] for name in ("dates", "complete_through", "tables", "kpi_versions")}
        return LakeSnapshot(folder / lake).everything() | {"export": sorted(lines), "manifest": about}

    def result(self, lake: str, run_id: str) -> dict[str, Any]:
        """The result of a run."""
        body = self.client.get_object(Bucket=BUCKET, Key=f"{lake}/runs/{run_id}/result.json")["Body"].read()
        content: dict[str, Any] = json.loads(body)
        return content


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A master and two workers of one core."""
    fetch_jars(PURPOSES)
    running = Cluster.start(tmp_path_factory.mktemp("cluster"))
    yield running
    running.stop()


@pytest.fixture(scope="session")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    """The bucket, with the input."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with moto_server() as endpoint:
        filled = Bucket(endpoint, tmp_path_factory.mktemp("drivers"))
        filled.fill()
        yield filled


class Runs:
    """The commands of a lake's life, each run once, when its end is first asked for."""

    def __init__(self, bucket: Bucket, lake: str, conf: Mapping[str, str]) -> None:
        self._bucket, self._lake, self._conf = bucket, lake, conf
        self._ends: list[dict[str, Any]] = []
        self.driver_logs: list[str] = []

    def end(self, number: int) -> dict[str, Any]:
        """What the commands up to this one, from 0 on, leave."""
        for next_one in range(len(self._ends), number + 1):
            command = commands(self._bucket)[next_one]
            process = start_application(self._bucket.place(self._lake), self._conf, command, f"run-{next_one}")
            assert process.wait() == 0, process.text[-4000:]
            self.driver_logs.append(process.text)
            self._ends.append(self._bucket.end(self._lake, next_one))
        return self._ends[number]


@pytest.fixture(scope="session")
def local_runs(bucket: Bucket) -> Runs:
    """In local mode."""
    return Runs(bucket, "local", LOCAL_CONF)


@pytest.fixture(scope="session")
def cluster_runs(bucket: Bucket, cluster: Cluster) -> Runs:
    """On the cluster."""
    return Runs(bucket, "cluster", cluster.conf())


def start_application(
    place: Workplace, conf: Mapping[str, str], command: Sequence[str], run_id: str, plan: Plan | None = None
) -> Process:
    """Start a command of the application, by `spark-submit` with this conf, as a process group of its own."""
    arguments = [*command, "--lake", place.lake_uri, "--run-id", run_id, "--log-format", "text"]
    environment = submit_environment({**os.environ, **place.environment}, PURPOSES, short_run=True)
    return place.start_process(submit_command(LAUNCHER, conf, arguments), environment, plan)


def commands(bucket: Bucket) -> list[list[str]]:
    """The commands of one lake's life, the first as run-0 and so on; the last one exports nothing."""
    return [bucket.source(0), bucket.source(1), ["rebuild"], ["compact"]]
