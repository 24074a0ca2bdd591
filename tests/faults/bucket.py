"""A bucket as a run of the DAG finds it when its Spark job has ended, and what must be equal after the other tasks."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
from mypy_boto3_dynamodb import DynamoDBClient

from kpi_common.contracts import Dataset
from spark_app.run.files import InputFile
from spark_app.run.result import FileOutcome, RunResult
from tests.faults.content import OF_A_RUN, plain
from tests.faults.harness import KILLED, Plan, Process, Workplace
from tests.integration.delivery_helpers import STATUS, day, kpis, run_delivery, scan
from tests.support.export_files import write_export
from tools.dynamodb_local import CREDENTIALS
from tools.spark_submit import ROOT

TASKS = ROOT / "tests" / "faults" / "tasks.py"
RUN_ID = "scheduled__2024-06-26"
SPARK_RUN_ID = "scheduled__2024-06-26"
TODAY = re.compile(r"\d{4}-\d{2}-\d{2}")
GOOD = "user_id,track_id,listen_time\n{n},t{n},2024-06-25 10:00:00\n"
FILES = {
    "songs/songs.csv": "track_id,artists,track_name,duration_ms,track_genre\nt1,A,One,200000,pop\n",
    "users/users.csv": "user_id\n1\n",
    "streams/a.csv": GOOD.format(n=1),
    "streams/b.csv": GOOD.format(n=2),
    "streams/bad.csv": "user_id,track_id,listen_time\nx,y,z\n",
}
GENRES = [f"genre-{number:02d}" for number in range(30)]
BEFORE = {date: day(date, [*GENRES[:5], "gone"], plays=3) for date in ("2024-06-24", "2024-06-25")}
NOW = {date: day(date, GENRES, plays=10) for date in ("2024-06-24", "2024-06-25", "2024-06-26")}
# The lease of a writer that was killed runs out soon; another writer waits for that.
QUICK = {
    "MUSIC_KPIS_DYNAMODB_LEASE_SECONDS": "1",
    "MUSIC_KPIS_DYNAMODB_FIRST_WAIT_SECONDS": "0.01",
    "MUSIC_KPIS_DYNAMODB_LONGEST_WAIT_SECONDS": "0.2",
}


@dataclass(frozen=True)
class RunOfDag:
    """One run of the DAG on buckets and tables of its own."""

    place: Workplace
    s3: Any
    client: DynamoDBClient
    environment: Mapping[str, str]
    name: str

    @property
    def prefix(self) -> str:
        """Of the tables."""
        return f"{self.name}-"

    @property
    def state(self) -> Path:
        """What Airflow's database knows."""
        return self.place.folder / "state.json"

    def set_up(self) -> None:
        """Deliver what was there before, then fill the bucket as it is after the Spark job."""
        lake = self.place.lake
        write_export(lake, 1, BEFORE)
        run_delivery(lake, self.prefix)
        write_export(lake, 2, NOW, run_id=SPARK_RUN_ID, days_a_part=1)
        location: Any = {"LocationConstraint": CREDENTIALS["region_name"]}
        self.s3.create_bucket(Bucket=self.name, CreateBucketConfiguration=location)
        for name, text in FILES.items():
            self.s3.put_object(Bucket=self.name, Key=f"raw/{name}", Body=text.encode())
        for path in lake.rglob("*.*"):
            self.s3.upload_file(str(path), self.name, f"lake/{path.relative_to(lake)}")
        body = json.dumps(_result()).encode()
        self.s3.put_object(Bucket=self.name, Key=f"lake/runs/{SPARK_RUN_ID}/result.json", Body=body)
        settings = {
            **dict.fromkeys(("source_bucket", "lake_bucket", "intermediate_bucket"), self.name),
            "archive_bucket": self.name,
            "emr_application_id": "none",
            "execution_role_arn": "arn:aws:iam::123456789012:role/none",
            "table_prefix": self.prefix,
        }
        result = f"s3://{self.name}/lake/runs/{SPARK_RUN_ID}/result.json"
        state = {"settings": settings, "run_id": RUN_ID, "result": result, "done": {}}
        self.state.write_text(json.dumps(state), "utf-8")

    def start(self, plan: Plan | None = None) -> Process:
        """Start the tasks that are not done yet."""
        command = [sys.executable, str(TASKS), str(self.state)]
        return self.place.start_process(command, dict(self.environment), plan)

    def die(self, plan: Plan) -> Process:
        """See the tasks killed at a point."""
        process = self.start(plan)
        code = process.wait()
        assert code == KILLED, f"{plan.point}: not reached: {process.text[-3000:]}"
        assert plan.point is None or process.trace[-1] == plan.point
        return process

    def end_well(self) -> None:
        """Start the tasks that are not done yet; they must succeed."""
        process = self.start()
        assert process.wait() == 0, process.text[-4000:]

    def end(self) -> dict[str, Any]:
        """All objects of the bucket and all items, without what tells of a run or of today."""
        objects = {}
        for page in self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.name):
            for entry in page.get("Contents", []):
                if not entry["Key"].startswith("lake/"):
                    body: bytes = self.s3.get_object(Bucket=self.name, Key=entry["Key"])["Body"].read()
                    objects[TODAY.sub("DAY", entry["Key"])] = _without_today(body)
        receipt = self.s3.get_object(Bucket=self.name, Key=f"lake/exports/{SPARK_RUN_ID}/delivered.json")
        counts = json.loads(receipt["Body"].read())
        days = [
            {k: v for k, v in item.items() if k not in OF_A_RUN} for item in scan(self.client, self.prefix + STATUS)
        ]
        files = scan(self.client, f"{self.prefix}ProcessedStreams")
        return {
            "objects": objects,
            "receipt": (counts["dates"], counts["undeliverable"]),
            "kpis": {name: sorted(map(plain, items)) for name, items in kpis(self.client, self.prefix).items()},
            "days": sorted(map(plain, days)),
            "files": sorted(plain({k: v for k, v in file.items() if k != "processed_on"}) for file in files),
        }


def client_of(endpoint: str) -> Any:
    """A client of moto's S3."""
    return boto3.client("s3", endpoint_url=endpoint, **CREDENTIALS)


def _without_today(body: bytes) -> str:
    text = body.decode()
    if not text.startswith("{"):
        return text
    fields = json.loads(text)
    return plain({name: value for name, value in fields.items() if name not in {"rejected_on", "modified_at"}})


def _result() -> dict[str, Any]:
    """What the application would have written."""
    at = datetime(2024, 6, 26, 2, tzinfo=UTC)
    result = RunResult(SPARK_RUN_ID, "run", "s3://any/lake", None, at)
    for name, text in FILES.items():
        etag = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
        dataset = Dataset(name.partition("/")[0])
        file = InputFile(dataset, name, f"s3://any/raw/{name}", len(text), at, etag)
        outcome = FileOutcome(file, "accepted")
        if name == "streams/bad.csv":
            samples = [{"raw": "x,y,z", "reasons": ["invalid_user_id"]}]
            outcome = FileOutcome(file, "rejected", "too_many_quarantined", "1 of 1 rows are bad", samples=samples)
        result.record([outcome])
    content: dict[str, Any] = json.loads(json.dumps(result.as_json(at, []), default=str))
    return content
