"""Jobs that are alive, and what a failure says; EMR's client is replaced by one that knows a few jobs."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kpi_pipeline.emr import job as emr_job
from kpi_pipeline.emr.request import job_name

LAKE = "s3://b-1/lake"


class Emr:
    """Stands for EMR's client; only what is asked for here."""

    def __init__(self, jobs: list[dict[str, Any]]) -> None:
        self.jobs = {job["id"]: job for job in jobs}
        self.cancelled: list[str] = []

    def get_paginator(self, _: str) -> "Emr":
        return self

    def paginate(self, applicationId: str, states: list[str]) -> list[dict[str, Any]]:  # noqa: N803, ARG002
        return [{"jobRuns": [job for job in self.jobs.values() if job["state"] in states]}]

    def get_job_run(self, applicationId: str, jobRunId: str) -> dict[str, Any]:  # noqa: N803
        job = self.jobs[jobRunId]
        if job["state"] == "CANCELLING":
            job["polls"] = job.get("polls", 0) + 1
            if job["polls"] > 2:
                job["state"] = "CANCELLED"
        return {"jobRun": {**job, "jobRunId": jobRunId, "applicationId": applicationId}}

    def cancel_job_run(self, applicationId: str, jobRunId: str) -> None:  # noqa: N803, ARG002
        self.cancelled.append(jobRunId)
        self.jobs[jobRunId]["state"] = "CANCELLING"


def job(job_id: str, state: str, run_id: str, created: str = "1", lake: str = LAKE) -> dict[str, Any]:
    submit = {"entryPointArguments": ["run", "--lake", lake, "--run-id", run_id]}
    driver = {"sparkSubmit": submit}
    return {"id": job_id, "state": state, "name": job_name(run_id), "createdAt": created, "jobDriver": driver}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emr_job, "CANCEL_POLL_S", 0.0)


def state_of(run_id: str) -> str | None:
    return {"ours": "running", "waiting": "queued", "marked failed": "failed"}.get(run_id)


def test_the_newest_live_job_of_this_run_is_found() -> None:
    jobs = [job("a", "RUNNING", "ours"), job("c", "FAILED", "ours"), job("d", "SUBMITTED", "ours", "2")]
    emr = Emr([*jobs, job("e", "CANCELLING", "ours", "3")])
    found = emr_job.live_job(emr, "app", job_name("ours"), LAKE, state_of)
    assert found is not None
    assert found["jobRunId"] == "d"
    assert emr.jobs["e"]["state"] == "CANCELLED", "it has waited for that one"
    assert emr.cancelled == []


def test_a_job_that_an_ended_run_has_left_on_the_lake_is_cancelled_and_no_other() -> None:
    jobs = [job("left", "RUNNING", "marked failed"), job("waits", "RUNNING", "waiting"), job("x", "RUNNING", "unknown")]
    emr = Emr([*jobs, job("theirs", "RUNNING", "marked failed", lake="s3://other/lake")])
    assert emr_job.live_job(emr, "app", job_name("ours"), LAKE, state_of) is None
    assert emr.cancelled == ["left"]
    assert emr.jobs["left"]["state"] == "CANCELLED", "it has waited for its end"


def test_a_cancel_waits_until_the_job_is_over() -> None:
    emr = Emr([job("a", "RUNNING", "ours"), job("b", "SUCCESS", "ours")])
    assert emr_job.cancel(emr, "app", "a")["state"] == "CANCELLED"
    assert emr_job.cancel(emr, "app", "b")["state"] == "SUCCESS"
    assert emr.cancelled == ["a"]


def test_a_job_is_overdue_when_emr_should_have_ended_it() -> None:
    now = datetime.now(UTC)
    assert not emr_job.is_overdue(now - timedelta(minutes=100), 90)
    assert emr_job.is_overdue(now - timedelta(minutes=130), 90)


def ended(details: str, state: str = "FAILED") -> dict[str, Any]:
    monitoring = {"s3MonitoringConfiguration": {"logUri": "s3://b-1/logs"}}
    return {
        "jobRunId": "j1",
        "applicationId": "app",
        "state": state,
        "stateDetails": details,
        "configurationOverrides": {"monitoringConfiguration": monitoring},
    }


def result(code: str, exit_code: int = 1, step: str = "stage", message: str = "x") -> dict[str, Any]:
    steps = [{"name": "list files"}, {"name": step}]
    return {"exit_code": exit_code, "error": {"code": code, "message": message}, "steps": steps}


def test_a_failure_tells_exit_code_reason_and_log() -> None:
    failure = emr_job.failure_of(ended("Job failed. ExitCode: 1. x"), None)
    assert failure.exit_code_of_job == 1
    assert "s3://b-1/logs/applications/app/jobs/j1/SPARK_DRIVER/" in str(failure)
    failure = emr_job.failure_of(ended("Job failed. ExitCode: 1. x"), result("audit_failed", 4, message="rows missing"))
    assert failure.exit_code_of_job == 4
    assert "audit_failed: rows missing" in str(failure)


ROW = "4711,Jane Doe,31,Norway"
QUOTED = f"Job failed. ExitCode: 1. Last few exceptions: SparkException: malformed record {ROW}"


@pytest.mark.parametrize(
    ("details", "known", "public"),
    [
        (QUOTED, None, "with exit code 1; the application wrote no result; log: s3://"),
        (QUOTED, result("unexpected", message=f"Py4JJavaError: a: {ROW}"), "reason: unexpected: Py4JJavaError; log: "),
        (QUOTED, result("lock_lost", message="the lake's lock"), "reason: lock_lost: the lake's lock; log: s3://"),
        (
            f"ExitCode: 2. Last few exceptions: WARN {ROW} | error: setting `max_files` is 'none' | Exception: {ROW}",
            None,
            "with exit code 2; the application wrote no result; reason: setting `max_files` is 'none'; log: s3://",
        ),
        ("Image could not be pulled", None, "wrote no result; EMR says: Image could not be pulled; log: s3://"),
    ],
    ids=["no result", "unexpected", "our own", "our own line", "never ran"],
)
def test_what_leaves_the_log_quotes_nobody_else(details: str, known: dict[str, Any] | None, public: str) -> None:
    failure = emr_job.failure_of(ended(details), known)
    assert public in failure.public
    assert ROW not in failure.public
    assert details in str(failure), "the log has it all"
