"""Input and lake in S3, which Spark reaches by S3A: here a server on this machine."""

import json
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.image.conftest import RunJob
from tests.image.lake_content import LakeContent, items_of
from tools.container import DELTA_JARS, ISOLATION, submit_command
from tools.docker_engine import docker
from tools.dynamodb_local import free_port
from tools.image import Built

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


@pytest.fixture(scope="module")
def on_disk(run_job: RunJob, tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run in one container exports of the same files on disk."""
    lake = tmp_path_factory.mktemp("disk") / "lake"
    done = run_job(str(lake), str(tiny_source))
    assert done.exit_code == 0, done.output
    return LakeContent(lake).exports()


def exported(s3: Any, lake: str) -> dict[str, Any]:
    """The items of the only export of a lake in the bucket."""

    def read(key: str) -> bytes:
        body: bytes = s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return body

    keys = [entry["Key"] for entry in s3.list_objects_v2(Bucket=BUCKET, Prefix=f"{lake}/exports/")["Contents"]]
    (manifest_key,) = (key for key in keys if key.endswith("/manifest.json"))
    folder = manifest_key.rpartition("/")[0]
    return items_of(json.loads(read(manifest_key)), lambda path: read(f"{folder}/{path}"))


def test_input_and_lake_in_s3(run_job: RunJob, s3: Any, s3_endpoint: str, on_disk: dict[str, Any]) -> None:
    env = {**CREDENTIALS, "AWS_ENDPOINT_URL_S3": s3_endpoint}
    in_s3 = run_job(f"s3://{BUCKET}/lake", f"s3://{BUCKET}/raw", env=env)
    assert in_s3.exit_code == 0, in_s3.output
    items = exported(s3, "lake")
    assert items == on_disk
    assert len(items["DailyGenreKPIs"]) == 2


@pytest.fixture
def start(built: Built, s3_endpoint: str) -> Iterator[Callable[..., str]]:
    """Start a container of the image, as isolated as a job's, and return its name."""
    names: list[str] = []

    def run(*command: str, restarts: int = 0) -> str:
        names.append(f"kpis-test-{secrets.token_hex(4)}")
        # What EMR gives to each of its workers.
        given = {**CREDENTIALS, "AWS_ENDPOINT_URL_S3": s3_endpoint, "TZ": "UTC", "SPARK_LOCAL_IP": "127.0.0.1"}
        options = [part for name, value in given.items() for part in ("--env", f"{name}={value}")]
        options += [
            "--detach",
            "--restart",
            f"on-failure:{restarts}" if restarts else "no",
            "--name",
            names[-1],
            "--network",
            "host",
            *ISOLATION,
        ]
        docker("run", *options, built.name, *command)
        return names[-1]

    yield run
    for name in reversed(names):
        docker("rm", "--force", name, check=False)


@pytest.mark.timeout(300)
def test_driver_and_executors_in_containers_of_their_own(
    start: Callable[..., str], s3: Any, on_disk: dict[str, Any]
) -> None:
    """They share a network and the bucket; one file of songs has a record over two lines, which Python reads."""
    master, driver = str(free_port()), str(free_port())
    start("spark-class", "org.apache.spark.deploy.master.Master", "--host", "127.0.0.1", "--port", master)
    arguments = ["run", "--input", f"s3://{BUCKET}/raw", "--lake", f"s3://{BUCKET}/lake-of-a-cluster"]
    places = {"spark.driver.host": "127.0.0.1", "spark.driver.port": driver, "spark.executor.memory": "1g"}
    conf = [part for name, value in places.items() for part in ("--conf", f"{name}={value}")]
    more = ["--master", f"spark://127.0.0.1:{master}", "--jars", f"{DELTA_JARS}.jar", *conf]
    job = start("driver", *more, *submit_command(arguments)[1:])
    of_both = ["--driver-url", f"spark://CoarseGrainedScheduler@127.0.0.1:{driver}", "--cores", "1", "--app-id", "any"]
    executors = []
    for number, host in enumerate(["127.0.0.2", "127.0.0.3"]):  # of one host, they would look for each other's files
        place = ["--executor-id", str(number), "--hostname", host, "--bind-address", host, "--resourceProfileId", "0"]
        # Whoever comes before the driver listens is started again.
        executors.append(start("executor", *of_both, *place, restarts=30))
    assert docker("wait", job).stdout.strip() == "0", logs(job)
    assert exported(s3, "lake-of-a-cluster") == on_disk
    for executor in executors:
        assert "Finished task" in logs(executor)


def logs(container: str) -> str:
    """What a container has written."""
    written = docker("logs", container)
    return written.stdout + written.stderr
