"""AWS on one machine: S3, SNS, SQS, Secrets Manager and EMR Serverless by moto's server, DynamoDB by DynamoDB Local.

    with EmulatedAws(folder) as aws:
        aws.client("s3").create_bucket(…)
        subprocess.run(…, env={**os.environ, **aws.environment})

The server is a process of its own that ends with this one, with all jobs it runs. `folder` keeps the logs of the jobs.
EMR Serverless really runs jobs: see `emulated_emr.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tools.dynamodb_local import ACCESS_KEY, REGION, DynamoDBLocal, free_port

ROOT = Path(__file__).resolve().parents[1]
ACCOUNT = "123456789012"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/emr-serverless-job"
RELEASE = "emr-7.14.0"
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 40
CREDENTIALS = {
    "AWS_REGION": REGION,
    "AWS_DEFAULT_REGION": REGION,
    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": "local",
}


class EmulatedAwsError(Exception):
    """The server did not start; the message has the end of its output."""


class EmulatedAws:
    """The services, as long as the `with` block lasts."""

    def __init__(
        self, folder: Path, image: str | None = None, *, dynamodb: DynamoDBLocal | None = None, warm: bool = False
    ) -> None:
        """Keep logs in `folder`, run jobs in `image` where Docker has it, use a DynamoDB that runs or start one.

        `warm`: jobs that run on this machine share drivers that stay up.
        """
        self.folder = folder
        self._options = [*(["--warm"] if warm else []), *(["--image", image] if image else [])]
        self._own_dynamodb = dynamodb is None
        self.dynamodb = dynamodb or DynamoDBLocal()
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """Endpoint of everything but DynamoDB."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What AWS's libraries in another process need to use these services."""
        endpoints = {"AWS_ENDPOINT_URL": self.url, "AWS_ENDPOINT_URL_DYNAMODB": self.dynamodb.url}
        # An endless search for a role on EC2 is not wanted, nor are the caller's profile and files.
        quiet = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.devnull}
        return {**CREDENTIALS, **endpoints, **quiet, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}

    def client(self, service: Any) -> Any:
        """Return a boto3 client of one of the services."""
        import boto3

        url = self.dynamodb.url if service == "dynamodb" else self.url
        return boto3.client(
            service,
            endpoint_url=url,
            region_name=REGION,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        )

    def create_application(self, name: str = "music-streaming-kpis") -> str:
        """Make an EMR Serverless application and return its id."""
        emr = self.client("emr-serverless")
        return str(emr.create_application(name=name, releaseLabel=RELEASE, type="SPARK")["applicationId"])

    def jobs(self, application_id: str) -> list[dict[str, Any]]:
        """Return all job runs of an application, the oldest first, with all that GetJobRun tells."""
        emr = self.client("emr-serverless")
        pages = emr.get_paginator("list_job_runs").paginate(applicationId=application_id)
        ids = [run["id"] for page in pages for run in page["jobRuns"]]
        runs = [emr.get_job_run(applicationId=application_id, jobRunId=job_id)["jobRun"] for job_id in ids]
        return sorted(runs, key=lambda run: str(run["createdAt"]))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the servers and wait until they answer."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._own_dynamodb:
            self.dynamodb.start()
        self.port = free_port()
        log = self.folder / "server.log"
        command = [sys.executable, "-m", "tools.emulated_aws", str(self.port), str(self.folder)]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [*command, *self._options],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "dags")])},
                start_new_session=True,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise EmulatedAwsError(f"the emulated AWS did not start:\n{log.read_text('utf-8')[-2000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End the servers and all jobs."""
        if self._process is not None:
            assert self._process.stdin is not None
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._own_dynamodb:
            self.dynamodb.stop()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/moto-api/data.json", timeout=2) as answer:  # noqa: S310
                return isinstance(json.load(answer), dict)
        except (OSError, ValueError):
            return False


def serve(port: int, folder: Path, image: str | None, *, warm: bool) -> int:
    """Serve until standard input closes, then end all jobs."""
    from moto.server import ThreadedMotoServer

    from tools.emulated_emr import Runs, extend_moto, job_environment

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    runs = Runs(folder, job_environment(f"http://127.0.0.1:{port}", CREDENTIALS), image, warm=warm)
    extend_moto(runs)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port)
    server.start()
    sys.stdin.buffer.read()  # until the parent closes it, or dies
    runs.stop_all()
    server.stop()
    return 0


def main() -> int:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--image")
    parser.add_argument("--warm", action="store_true")
    options = parser.parse_args()
    return serve(options.port, options.folder, options.image, warm=options.warm)


if __name__ == "__main__":
    os.environ.setdefault("MOTO_ALLOW_NONEXISTENT_REGION", "true")
    raise SystemExit(main())
