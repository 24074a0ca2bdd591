"""A job that is well is not cancelled because EMR can't be asked: the real trigger and operator, a stub of EMR."""

import asyncio
import json
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "dags"))

from spark_job_operator import AirflowException, SparkJobOperator

try:
    from airflow.sdk.exceptions import TaskDeferred
except ImportError:
    from airflow.exceptions import TaskDeferred

ARGUMENTS = ["run", "--lake", "s3://bucket/lake", "--run-id", "r1"]
DRIVER = {"sparkSubmit": {"entryPoint": "local:///main.py", "entryPointArguments": ARGUMENTS}}
KNOWN = {"job_id": "j1", "log": "s3://logs", "result": "s3://bucket/lake/runs/r1/result.json"}


class Emr(BaseHTTPRequestHandler):
    """One job; the first `throttled` requests for it are refused. S3 is empty."""

    throttled = 0
    state = "RUNNING"
    created = datetime.now(UTC)
    cancelled = 0

    def do_GET(self) -> None:
        if "/jobruns/" not in self.path:
            return self._answer(404, {})
        if type(self).throttled > 0:
            type(self).throttled -= 1
            return self._answer(429, {"message": "slow down"}, "ThrottlingException")
        job = {"applicationId": "app", "jobRunId": "j1", "arn": "a", "createdBy": "x", "executionRole": "r"}
        job |= {"state": self.state, "stateDetails": "", "releaseLabel": "emr-7.14.0", "jobDriver": DRIVER}
        at = self.created.timestamp()
        return self._answer(200, {"jobRun": {**job, "createdAt": at, "updatedAt": at}})

    def do_DELETE(self) -> None:
        type(self).cancelled += 1
        type(self).state = "CANCELLED"
        self._answer(200, {"applicationId": "app", "jobRunId": "j1"})

    def _answer(self, status: int, body: dict[str, Any], error: str = "") -> None:
        content = json.dumps(body).encode() if status != 404 else b""
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if error:
            self.send_header("x-amzn-ErrorType", error)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def emr(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Emr]]:
    class Stub(Emr):
        pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Stub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    values = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}", "AWS_REGION": "eu-central-1"}
    values |= {"AWS_DEFAULT_REGION": "eu-central-1", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
    values["AWS_MAX_ATTEMPTS"] = "1"
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    yield Stub
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def operator() -> SparkJobOperator:
    made = SparkJobOperator(
        task_id="run_spark_app",
        application_id="app",
        execution_role_arn="arn:aws:iam::123456789012:role/x",
        name="music_streaming_pipeline r1",
        job_driver=DRIVER,
        configuration_overrides={},
        config={"executionTimeoutMinutes": 60},
        aws_conn_id=None,
        poll_seconds=0,
        deferrable=True,
        botocore_config={"retries": {"mode": "standard", "total_max_attempts": 1}},
    )
    made.waiter_max_attempts = 2
    return made


@pytest.fixture
def context() -> dict[str, Any]:
    ti = SimpleNamespace(xcom_pull=lambda **_: KNOWN, start_date=datetime.now(UTC))
    return {"ti": ti, "run_id": "r1"}


def run_trigger(trigger: Any) -> dict[str, Any]:
    """What the triggerer makes of the trigger's end: the arguments of `resume_execution`."""

    async def first() -> Any:
        async for event in trigger.run():
            return event
        return None

    try:
        return {"next_method": "wait_for_end", "next_kwargs": {"event": asyncio.run(first()).payload}}
    except Exception as error:  # noqa: BLE001 (whatever it is, the task is told of it)
        return {"next_method": "__fail__", "next_kwargs": {"error": str(error), "traceback": []}}


@pytest.mark.parametrize("still_throttled", [False, True], ids=["well again", "still throttled"])
def test_a_throttled_trigger_does_not_end_a_running_job(
    emr: type[Emr], operator: SparkJobOperator, context: dict[str, Any], still_throttled: bool
) -> None:
    with pytest.raises(TaskDeferred) as deferred:
        operator.wait_for_end(context)
    emr.throttled = 1_000
    told = run_trigger(deferred.value.trigger)
    assert "success" not in str(told)
    emr.throttled = 1 if still_throttled else 0
    with pytest.raises(TaskDeferred):
        operator.resume_execution(**told, context=context)
    assert (emr.cancelled, emr.state) == (0, "RUNNING")


def test_a_job_whose_time_is_over_is_cancelled(
    emr: type[Emr], operator: SparkJobOperator, context: dict[str, Any]
) -> None:
    emr.created = datetime.now(UTC) - timedelta(minutes=91)
    with pytest.raises(AirflowException, match="is CANCELLED"):
        operator.wait_for_end(context)
    assert emr.cancelled == 1


def test_lost_credentials_do_not_end_a_running_job(
    emr: type[Emr], operator: SparkJobOperator, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    with pytest.raises(TaskDeferred):
        operator.wait_for_end(context)
    assert emr.cancelled == 0
