import re
from typing import Any

import pytest

from kpi_pipeline.emr import job as spark_job
from kpi_pipeline.files.arrivals import safe_name
from kpi_pipeline.pipeline_settings import PipelineSettings, load_pipeline_settings

RUN_IDS = [
    "manual__2024-06-25T00:00:00+00:00",
    "scheduled__2024-06-25T00:00:00+00:00_a.very-long_id" * 5,
    "von Hand: Ümläute / & Leerzeichen",
    "..",
]


@pytest.fixture
def settings() -> PipelineSettings:
    role = "arn:aws:iam::123456789012:role/job"
    return load_pipeline_settings({"bucket_name": "b-1", "emr_application_id": "app", "execution_role_arn": role}.get)


@pytest.mark.parametrize("run_id", RUN_IDS)
def test_tokens_are_what_emr_takes_and_differ_by_run_and_try(run_id: str) -> None:
    tokens = {spark_job.client_token(one, number) for one in (run_id, run_id + "x") for number in (1, 2, 11)}
    assert len(tokens) == 6
    assert all(re.fullmatch(r"[A-Za-z0-9._-]{1,64}", token) for token in tokens)
    assert spark_job.client_token(run_id, 1) == spark_job.client_token(run_id, 1)


@pytest.mark.parametrize("run_id", RUN_IDS)
def test_run_ids_are_what_the_application_takes(run_id: str) -> None:
    for number in (1, 2):
        name = spark_job.spark_run_name(run_id, number)
        assert re.fullmatch(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._~:+=@-]{0,199}", name)
    assert spark_job.spark_run_name(run_id, 1) == safe_name(run_id)


def test_the_request_has_one_attempt_a_timeout_and_a_token(settings: PipelineSettings) -> None:
    request = spark_job.job_request(settings, "run-1", 2, "s3://b-1/m.json")
    assert request.config["retryPolicy"] == {"maxAttempts": 1}
    assert request.config["executionTimeoutMinutes"] == 120
    assert request.config["clientToken"] == spark_job.client_token("run-1", 2)
    submit = request.job_driver["sparkSubmit"]
    assert submit["entryPoint"].startswith("local:///")
    assert submit["entryPointArguments"][:3] == ["run", "--manifest", "s3://b-1/m.json"]
    assert spark_job.spark_run_of({"jobDriver": request.job_driver}) == request.spark_run_id == "run-1.t2"
    logs = request.configuration_overrides["monitoringConfiguration"]["s3MonitoringConfiguration"]["logUri"]
    assert logs == "s3://b-1/logs/emr"


def test_sizes_and_own_properties_come_after_the_common_ones(settings: PipelineSettings) -> None:
    larger = settings.model_copy(update={"executor_memory": "30g", "spark_conf": {"spark.x": "a b"}})
    parameters = spark_job.submit_parameters(larger)
    assert "--conf spark.executor.memory=30g" in parameters
    assert "--conf 'spark.x=a b'" in parameters
    assert "--conf spark.jars=/usr/share/aws/delta/lib/delta-spark.jar" in parameters


class Emr:
    """Stands for EMR's client; only what is asked for here."""

    def __init__(self, jobs: list[dict[str, Any]]) -> None:
        self.jobs = {job["id"]: job for job in jobs}
        self.cancelled: list[str] = []

    def get_paginator(self, _: str) -> "Emr":
        return self

    def paginate(self, applicationId: str, states: list[str]) -> list[dict[str, Any]]:  # noqa: N803, ARG002
        return [{"jobRuns": [job for job in self.jobs.values() if job["state"] in states]}]

    def get_job_run(self, applicationId: str, jobRunId: str) -> dict[str, Any]:  # noqa: N803, ARG002
        job = self.jobs[jobRunId]
        if job["state"] == "CANCELLING":
            job["polls"] = job.get("polls", 0) + 1
            if job["polls"] > 2:
                job["state"] = "CANCELLED"
        return {"jobRun": dict(job)}

    def cancel_job_run(self, applicationId: str, jobRunId: str) -> None:  # noqa: N803, ARG002
        self.cancelled.append(jobRunId)
        self.jobs[jobRunId]["state"] = "CANCELLING"


def job(job_id: str, state: str, run_id: str, created: str = "1") -> dict[str, Any]:
    return {"id": job_id, "state": state, "name": spark_job.job_name(run_id), "createdAt": created}


def test_only_live_jobs_of_this_run_are_found_the_newest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spark_job, "CANCEL_POLL_S", 0.0)
    jobs = [job("a", "RUNNING", "ours"), job("b", "RUNNING", "theirs"), job("c", "FAILED", "ours")]
    jobs += [job("d", "SUBMITTED", "ours", "2"), job("e", "CANCELLING", "ours")]
    emr = Emr(jobs)
    assert spark_job.live_jobs(emr, "app", "ours") == ["d", "a"]
    assert emr.jobs["e"]["state"] == "CANCELLED", "it has waited for that one"


def test_a_cancel_waits_until_the_job_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spark_job, "CANCEL_POLL_S", 0.0)
    emr = Emr([job("a", "RUNNING", "ours"), job("b", "SUCCESS", "ours")])
    assert spark_job.cancel(emr, "app", "a") == "CANCELLED"
    assert spark_job.cancel(emr, "app", "b") == "SUCCESS"
    assert emr.cancelled == ["a"]


def test_a_failure_tells_exit_code_reason_and_log(settings: PipelineSettings) -> None:
    ended = {"jobRunId": "j1", "applicationId": "app", "state": "FAILED", "stateDetails": "Job failed. ExitCode: 1. x"}
    failure = spark_job.failure_of(ended, None, settings)
    assert failure.exit_code_of_job == 1
    assert "s3://b-1/logs/emr/applications/app/jobs/j1/SPARK_DRIVER/" in str(failure)
    result = {"exit_code": 4, "error": {"code": "audit_failed", "message": "rows are missing"}}
    failure = spark_job.failure_of(ended, result, settings)
    assert failure.exit_code_of_job == 4
    assert "audit_failed: rows are missing" in str(failure)
