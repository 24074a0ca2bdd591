"""The Spark job on EMR Serverless: what is asked for, which jobs of a run are alive, and why one failed."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kpi_common.aws import plain_aws_errors
from kpi_common.log import log
from kpi_pipeline.emr.conf import as_submit_parameters, spark_properties
from kpi_pipeline.errors import AwsError, JobFailedError
from kpi_pipeline.files.arrivals import safe_name
from kpi_pipeline.pipeline_settings import PipelineSettings

LIVE_STATES = ("SUBMITTED", "PENDING", "SCHEDULED", "QUEUED", "RUNNING")
TERMINAL_STATES = frozenset({"SUCCESS", "FAILED", "CANCELLED"})
FINAL_EXIT_CODES = frozenset({2, 3, 4})  # trying the same again has the same end
TOKEN_LENGTH = 64
CANCEL_TIMEOUT_S = 600.0
CANCEL_POLL_S = 2.0
LOGS_OF_DRIVER = "SPARK_DRIVER"


@dataclass(frozen=True)
class JobRequest:
    """The parts of StartJobRun."""

    name: str
    job_driver: dict[str, Any]
    configuration_overrides: dict[str, Any]
    config: dict[str, Any]
    spark_run_id: str


def job_request(settings: PipelineSettings, run_id: str, try_number: int, manifest: str) -> JobRequest:
    """Return the request for a run's job.

    Args:
        settings: the run's.
        run_id: Airflow's.
        try_number: of the task, from 1; each try is a run of its own for the application and for EMR.
        manifest: address of the run manifest.
    """
    spark_run_id = spark_run_name(run_id, try_number)
    arguments = ["run", "--manifest", manifest, "--lake", settings.lake, "--run-id", spark_run_id]
    arguments += ["--env", settings.job_environment, "--log-format", "json"]
    for name, value in settings.job_settings.items():
        arguments += ["--set", f"{name}={value}"]
    return JobRequest(
        name=job_name(run_id),
        job_driver={
            "sparkSubmit": {
                "entryPoint": settings.entry_point,
                "entryPointArguments": arguments,
                "sparkSubmitParameters": submit_parameters(settings),
            }
        },
        configuration_overrides={"monitoringConfiguration": monitoring(settings)},
        config={
            "clientToken": client_token(run_id, try_number),
            "executionTimeoutMinutes": settings.execution_timeout_minutes,
            "retryPolicy": {"maxAttempts": 1},
            "tags": job_tags(settings, run_id),
        },
        spark_run_id=spark_run_id,
    )


def job_name(run_id: str) -> str:
    """Return the name by which a run's jobs are found again."""
    return f"music_streaming_pipeline {run_id}"[:256]


def spark_run_name(run_id: str, try_number: int) -> str:
    """Return the application's `--run-id` for a try."""
    name = safe_name(run_id)
    return name if try_number <= 1 else f"{name}.t{try_number}"


def client_token(run_id: str, try_number: int) -> str:
    """Return a token that is the same for the same run and try, and for no other: at most 64 of `[A-Za-z0-9._-]`."""
    digest = hashlib.sha256(f"{run_id}\n{try_number}".encode()).hexdigest()[:16]
    readable = re.sub(r"[^A-Za-z0-9._-]", "-", run_id)[: TOKEN_LENGTH - len(digest) - 6]
    return f"{readable}-{try_number}-{digest}"[-TOKEN_LENGTH:]


def submit_parameters(settings: PipelineSettings) -> str:
    """Return `sparkSubmitParameters`: conf/spark/emr.conf, then the sizes, then the setting `spark_conf`."""
    conf = {
        **spark_properties("emr"),
        "spark.driver.cores": str(settings.driver_cores),
        "spark.driver.memory": settings.driver_memory,
        "spark.executor.cores": str(settings.executor_cores),
        "spark.executor.memory": settings.executor_memory,
        "spark.emr-serverless.driver.disk": settings.executor_disk,
        "spark.emr-serverless.executor.disk": settings.executor_disk,
        "spark.dynamicAllocation.maxExecutors": str(settings.max_executors),
        **settings.spark_conf,
    }
    return as_submit_parameters(conf)


def monitoring(settings: PipelineSettings) -> dict[str, Any]:
    """Return where EMR puts the job's logs: S3, CloudWatch or both, beside its own managed storage."""
    where: dict[str, Any] = {}
    if settings.log_uri:
        where["s3MonitoringConfiguration"] = {"logUri": settings.log_uri}
    if settings.log_group:
        where["cloudWatchLoggingConfiguration"] = {"enabled": True, "logGroupName": settings.log_group}
    return where


def job_tags(settings: PipelineSettings, run_id: str) -> dict[str, str]:
    """Return the job's tags; what AWS does not take in a value is replaced."""
    tags = {"pipeline": "music_streaming_pipeline", "run_id": run_id, "database_name": settings.database_name}
    return {name: re.sub(r"[^\w .:/=+@-]", "-", value)[:256] for name, value in {**tags, **settings.job_tags}.items()}


def log_location(settings: PipelineSettings, application_id: str, job_id: str) -> str:
    """Return where the driver's log of a job is, for people."""
    places = []
    if settings.log_uri:
        places.append(f"{settings.log_uri}/applications/{application_id}/jobs/{job_id}/{LOGS_OF_DRIVER}/")
    if settings.log_group:
        places.append(f"CloudWatch {settings.log_group}, applications/{application_id}/jobs/{job_id}")
    return " and ".join(places) or "the EMR Serverless console (no log destination is set)"


# --- jobs that are there ---


def live_jobs(emr: Any, application_id: str, run_id: str) -> list[str]:
    """Return the ids of a run's jobs that have not ended, the newest first; it waits for those being cancelled."""
    name = job_name(run_id)
    with plain_aws_errors("EMR Serverless"):
        found = []
        states = [*LIVE_STATES, "CANCELLING"]
        for page in emr.get_paginator("list_job_runs").paginate(applicationId=application_id, states=states):
            found += [job for job in page["jobRuns"] if job.get("name") == name]
    found.sort(key=lambda job: str(job["createdAt"]), reverse=True)
    ending = [job["id"] for job in found if job["state"] == "CANCELLING"]
    for job_id in ending:
        wait_until_over(emr, application_id, job_id)
    return [job["id"] for job in found if job["id"] not in ending]


def spark_run_of(job: Mapping[str, Any]) -> str:
    """Return the `--run-id` that a job was started with."""
    arguments = job["jobDriver"]["sparkSubmit"]["entryPointArguments"]
    return str(arguments[arguments.index("--run-id") + 1])


def get_job(emr: Any, application_id: str, job_id: str) -> dict[str, Any]:
    """Return what EMR tells of a job."""
    with plain_aws_errors("EMR Serverless"):
        job: dict[str, Any] = emr.get_job_run(applicationId=application_id, jobRunId=job_id)["jobRun"]
        return job


def cancel(emr: Any, application_id: str, job_id: str) -> str:
    """Cancel a job and return its state when it is over; a job that has ended by itself keeps its end."""
    if get_job(emr, application_id, job_id)["state"] not in TERMINAL_STATES:
        log("cancelling the job", job_id=job_id)
        try:
            with plain_aws_errors("EMR Serverless"):
                emr.cancel_job_run(applicationId=application_id, jobRunId=job_id)
        except AwsError:
            if get_job(emr, application_id, job_id)["state"] not in {*TERMINAL_STATES, "CANCELLING"}:
                raise
    return wait_until_over(emr, application_id, job_id)


def wait_until_over(emr: Any, application_id: str, job_id: str, timeout: float = CANCEL_TIMEOUT_S) -> str:
    """Wait for a terminal state and return it; `AwsError` when that takes too long."""
    deadline = time.monotonic() + timeout
    while True:
        state = str(get_job(emr, application_id, job_id)["state"])
        if state in TERMINAL_STATES:
            return state
        if time.monotonic() > deadline:
            raise AwsError(f"EMR Serverless: job {job_id} is still {state} after {timeout:.0f} s")
        time.sleep(CANCEL_POLL_S)


# --- how a job ended ---


def failure_of(job: Mapping[str, Any], result: Mapping[str, Any] | None, settings: PipelineSettings) -> JobFailedError:
    """Return the error that tells why a job failed: EMR's words, the application's reason, where the log is."""
    details = str(job.get("stateDetails") or "")
    exit_code = _exit_code(details, result)
    parts = [f"the Spark job {job['jobRunId']} is {job['state']}"]
    if exit_code is not None:
        parts[0] += f" with exit code {exit_code}"
    if result is not None and result.get("error"):
        parts.append(f"reason: {result['error']['code']}: {result['error']['message']}")
    elif result is None:
        parts.append("the application wrote no result")
    if details:
        parts.append(f"EMR says: {details}")
    parts.append(f"log: {log_location(settings, job['applicationId'], job['jobRunId'])}")
    return JobFailedError("; ".join(parts), exit_code)


def _exit_code(details: str, result: Mapping[str, Any] | None) -> int | None:
    if result is not None and result["exit_code"] != 0:
        return int(result["exit_code"])
    found = re.search(r"[Ee]xit ?[Cc]ode:?\s*(\d+)", details)
    return int(found.group(1)) if found else None
