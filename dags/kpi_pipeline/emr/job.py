"""Jobs on EMR Serverless: which are alive, how one is cancelled, and why one failed. EMR itself is asked for all."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from jsonschema import Draft202012Validator

from kpi_common.aws import plain_aws_errors
from kpi_common.conf_files import load_schema
from kpi_common.errors import AwsError
from kpi_common.log import log
from kpi_common.s3_files import S3Storage
from kpi_pipeline.emr.request import LAKE_OPTION, PIPELINE, RUN_ID_OPTION
from kpi_pipeline.errors import JobFailedError, ResultError

LIVE_STATES = ("SUBMITTED", "PENDING", "SCHEDULED", "QUEUED", "RUNNING", "CANCELLING")
TERMINAL_STATES = frozenset({"SUCCESS", "FAILED", "CANCELLED"})
FINAL_EXIT_CODES = frozenset({2, 3, 4})  # trying the same again has the same end
OWN_LINE = re.compile(r"(?:^|[|\n]|exceptions:) *error: ([^|\n]{1,500})")
MARGIN = timedelta(minutes=30)  # for the application's start and EMR's own queue, beside the execution timeout
CANCEL_TIMEOUT_S = 600.0
CANCEL_POLL_S = 2.0

Job = Mapping[str, Any]
RunState = Callable[[str], str | None]


def get_job(emr: Any, application_id: str, job_id: str) -> dict[str, Any]:
    """Return what EMR tells of a job."""
    with plain_aws_errors("EMR Serverless"):
        job: dict[str, Any] = emr.get_job_run(applicationId=application_id, jobRunId=job_id)["jobRun"]
        return job


def live_job(emr: Any, application_id: str, name: str, lake: str, run_state: RunState) -> dict[str, Any] | None:
    """Return the job of this name that is alive, if any, and cancel those that ended runs have left on the lake.

    It waits until cancelled jobs are over: while they are CANCELLING they still write.

    Args:
        emr: client of EMR Serverless.
        application_id: where the jobs run.
        name: `job_name` of the run.
        lake: jobs on other lakes are others'.
        run_state: Airflow's state of a run, or None where it doesn't know it.
    """
    with plain_aws_errors("EMR Serverless"):
        pages = emr.get_paginator("list_job_runs").paginate(applicationId=application_id, states=list(LIVE_STATES))
        found = [job for page in pages for job in page["jobRuns"] if job.get("name", "").startswith(f"{PIPELINE} ")]
    ours = None
    for summary in sorted(found, key=lambda job: str(job["createdAt"]), reverse=True):
        job = get_job(emr, application_id, summary["id"])
        if option_of(job, LAKE_OPTION) != lake or job["state"] in TERMINAL_STATES:
            continue
        run_id = summary["name"].removeprefix(f"{PIPELINE} ")
        if summary["name"] == name and job["state"] == "CANCELLING":
            wait_until_over(emr, application_id, summary["id"])
        elif summary["name"] == name:
            ours = ours or job
        elif run_state(run_id) not in (None, "running", "queued"):
            log("a job whose run has ended is still alive", job_id=summary["id"], run_id=run_id)
            cancel(emr, application_id, summary["id"])
    return ours


def option_of(job: Job, option: str) -> str:
    """Return an option's value among the arguments that a job was started with; "" where it has none."""
    arguments = job["jobDriver"]["sparkSubmit"].get("entryPointArguments", [])
    return str(arguments[arguments.index(option) + 1]) if option in arguments else ""


def is_overdue(since: datetime, timeout_minutes: int) -> bool:
    """Whether a job that began then should have been ended by EMR."""
    return datetime.now(UTC) - since > timedelta(minutes=timeout_minutes) + MARGIN


def cancel(emr: Any, application_id: str, job_id: str) -> dict[str, Any]:
    """Cancel a job and return it when it is over; a job that has ended by itself keeps its end."""
    if get_job(emr, application_id, job_id)["state"] not in TERMINAL_STATES:
        log("cancelling the job", job_id=job_id)
        try:
            with plain_aws_errors("EMR Serverless"):
                emr.cancel_job_run(applicationId=application_id, jobRunId=job_id)
        except AwsError:
            if get_job(emr, application_id, job_id)["state"] not in {*TERMINAL_STATES, "CANCELLING"}:
                raise
    return wait_until_over(emr, application_id, job_id)


def wait_until_over(emr: Any, application_id: str, job_id: str) -> dict[str, Any]:
    """Wait for a terminal state and return the job; `AwsError` when that takes too long."""
    deadline = time.monotonic() + CANCEL_TIMEOUT_S
    while True:
        job = get_job(emr, application_id, job_id)
        if job["state"] in TERMINAL_STATES:
            return job
        if time.monotonic() > deadline:
            raise AwsError(f"EMR Serverless: job {job_id} is still {job['state']} after {CANCEL_TIMEOUT_S:.0f} s")
        time.sleep(CANCEL_POLL_S)


# --- how a job ended ---


def result_uri(job: Job) -> str:
    """Return where the application of a job writes its result."""
    return f"{option_of(job, LAKE_OPTION)}/runs/{option_of(job, RUN_ID_OPTION)}/result.json"


def read_result(uri: str) -> dict[str, Any] | None:
    """Return what the application wrote into `result.json` of its lake, or None where it wrote nothing.

    Raises:
        ResultError: it is not what `conf/schemas/run_result.schema.json` says, or is of another run.
    """
    data = S3Storage().read(uri)
    if data is None:
        return None
    try:
        result: dict[str, Any] = json.loads(data)
    except ValueError as error:
        raise ResultError(f"{uri}: not valid JSON: {error}") from error
    problem = next(iter(Draft202012Validator(load_schema("run_result")).iter_errors(result)), None)
    if problem is not None:
        raise ResultError(f"{uri} breaks its schema at {problem.json_path}: {problem.message[:500]}")
    if result["run_id"] != uri.split("/")[-2]:
        raise ResultError(f"{uri} says that it is of run {result['run_id']}")
    return result


def failure_of(job: Job, result: Mapping[str, Any] | None) -> JobFailedError:
    """Return the error that tells why a job failed: EMR's words, the application's reason, where the log is."""
    details = str(job.get("stateDetails") or "")
    exit_code = _exit_code(details, result)
    end = f"the Spark job {job['jobRunId']} is {job['state']}"
    end += "" if exit_code is None else f" with exit code {exit_code}"
    reason = public_reason = "the application wrote no result" if result is None else ""
    if result is None and exit_code in FINAL_EXIT_CODES and (own := OWN_LINE.findall(details)):
        public_reason += f"; reason: {own[-1].strip()}"  # only the application ends so, and says why
    if result is not None and (error := result.get("error")):
        reason = public_reason = f"reason: {error['code']}: {error['message'][:1000]}"
        if error["code"] == "unexpected":  # not the application's own words: `_unexpected` of spark_app/cli.py
            public_reason = f"reason: unexpected: {error['message'].partition(':')[0]}"
    said = f"EMR says: {details[:1000]}" if details else ""
    ran = result is not None or exit_code is not None or "exception" in details.lower()  # so EMR quotes its output
    log_at = f"log: {log_location(job)}"
    message, public = (end, reason, said, log_at), (end, public_reason, "" if ran else said, log_at)
    return JobFailedError("; ".join(filter(None, message)), "; ".join(filter(None, public)), exit_code)


def log_location(job: Job) -> str:
    """Return where the driver's log of a job is, for people."""
    places = []
    folder = f"applications/{job['applicationId']}/jobs/{job['jobRunId']}"
    monitoring = (job.get("configurationOverrides") or {}).get("monitoringConfiguration", {})
    if "s3MonitoringConfiguration" in monitoring:
        places.append(f"{monitoring['s3MonitoringConfiguration']['logUri']}/{folder}/SPARK_DRIVER/")
    if "cloudWatchLoggingConfiguration" in monitoring:
        places.append(f"CloudWatch {monitoring['cloudWatchLoggingConfiguration']['logGroupName']}, {folder}")
    return " and ".join(places) or "the EMR Serverless console (no log destination is set)"


def _exit_code(details: str, result: Mapping[str, Any] | None) -> int | None:
    if result is not None and result["exit_code"] != 0:
        return int(result["exit_code"])
    found = re.search(r"[Ee]xit ?[Cc]ode:?\s*(\d+)", details)
    return int(found.group(1)) if found else None
