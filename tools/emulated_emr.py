"""EMR Serverless as an extension of moto's: jobs really run.

moto's own StartJobRun says SUCCESS at once and runs nothing. Here a new application is CREATED and the first job starts
it; a job goes SUBMITTED → SCHEDULED → RUNNING → SUCCESS or FAILED, with the exit code of `spark-submit` in its
`stateDetails`; CancelJobRun ends its processes; the same `clientToken` is the same job.
"""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
from moto.emrserverless import models
from moto.emrserverless.exceptions import ResourceNotFoundException, ValidationException

from tools.emulated_jobs import (
    Job,
    JobRequest,
    direct_command,
    has_image,
    image_command,
    last_errors,
    remove_container,
    upload_logs,
    when_over,
)
from tools.warm_drivers import WarmDrivers

LIVE_STATES = frozenset({"SUBMITTED", "PENDING", "SCHEDULED", "RUNNING", "CANCELLING"})
DEFAULT_TIMEOUT_MINUTES = 720


class Runs:
    """The jobs of a server: threads that run them, and what is known of each beyond moto's model."""

    def __init__(self, folder: Path, environ: dict[str, str], image: str | None, *, warm: bool = False) -> None:
        self.folder = folder
        self.environ = environ
        self.image = image
        self.drivers = WarmDrivers(folder / "drivers") if warm else None
        self.lock = threading.Lock()
        self.stopped: dict[str, threading.Event] = {}
        self.threads: list[threading.Thread] = []

    def start(self, run: models.JobRun) -> None:
        """Begin to run a job in the background."""
        self.stopped[run.id] = threading.Event()
        thread = threading.Thread(target=self._run, args=(run,), name=f"job {run.id}")
        self.threads.append(thread)
        thread.start()

    def stop(self, run: models.JobRun) -> None:
        """Ask a job to end."""
        self.stopped[run.id].set()

    def stop_all(self) -> None:
        """End all jobs and wait for that."""
        for event in self.stopped.values():
            event.set()
        for thread in self.threads:
            thread.join()
        if self.drivers is not None:
            self.drivers.stop_all()

    def _run(self, run: models.JobRun) -> None:
        try:
            state, details = self._run_to_end(run)
        except Exception as error:  # noqa: BLE001 (whatever it is, the job has failed of it)
            state, details = "FAILED", f"Job failed to start: {error}"
        self._set(run, state, details)

    def _run_to_end(self, run: models.JobRun) -> tuple[str, str]:
        stopped = self.stopped[run.id]
        request = JobRequest.of(run.job_driver or {}, run.configuration_overrides)
        logs = self.folder / "applications" / run.application_id / "jobs" / run.id / "SPARK_DRIVER"
        container = f"emr-{run.id}" if self.image is not None and has_image(self.image) else None
        if self.image is not None and container is not None:
            command, env = image_command(request, self.environ, self.image, container)
        else:
            command, env = direct_command(request, self.environ)
        if stopped.wait(0.2):
            return "CANCELLED", "Job run was cancelled"
        self._set(run, "SCHEDULED")
        if stopped.wait(0.2):
            return "CANCELLED", "Job run was cancelled"
        start = self.drivers.start if self.drivers is not None and container is None else Job
        job = start(command, env, logs)
        self._set(run, "RUNNING")
        how, code = when_over(job, run.execution_timeout_minutes * 60, stopped)
        if container is not None:
            remove_container(container)
        if request.log_uri:
            upload_logs(logs, request.log_uri, run.application_id, run.id, self._put)
        if how != "ended":
            reason = "it exceeded its execution timeout" if how == "timed out" else "of a request"
            return "CANCELLED", f"Job run was cancelled because {reason}"
        if code == 0:
            return "SUCCESS", ""
        return "FAILED", (
            "Job failed, please check complete logs in configured logging destination. "
            f"ExitCode: {code}. Last few exceptions: {last_errors(logs)}"
        )

    def _put(self, bucket: str, key: str, content: bytes) -> None:
        client = boto3.client(
            "s3",
            endpoint_url=self.environ["AWS_ENDPOINT_URL"],
            region_name=self.environ["AWS_REGION"],
            aws_access_key_id=self.environ["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environ["AWS_SECRET_ACCESS_KEY"],
        )
        client.put_object(Bucket=bucket, Key=key, Body=content)

    def _set(self, run: models.JobRun, state: str, details: str = "") -> None:
        with self.lock:
            if run.state == "CANCELLING" and state in ("SCHEDULED", "RUNNING"):
                return
            now = datetime.now(UTC)
            run.state, run.state_details, run.updated_at = state, details, now
            run.total_execution_duration_seconds = int((now - run.created_at).total_seconds())


def extend_moto(runs: Runs) -> None:
    """Replace what moto's backend pretends by what `runs` does."""
    backend = models.EMRServerlessBackend
    create_application, start_job_run = backend.create_application, backend.start_job_run

    def create(self: models.EMRServerlessBackend, *args: Any, **kwargs: Any) -> models.Application:
        application = create_application(self, *args, **kwargs)
        application.state = "CREATED"
        return application

    def start(self: models.EMRServerlessBackend, **kwargs: Any) -> models.JobRun:
        with runs.lock:
            return begin(self, kwargs)

    def begin(self: models.EMRServerlessBackend, kwargs: dict[str, Any]) -> models.JobRun:
        application = self.get_application(kwargs["application_id"])
        for known in self.job_runs.get(application.id, []):
            if known.client_token == kwargs["client_token"]:
                if known.job_driver != kwargs["job_driver"]:
                    raise ValidationException("The client token was used for another request.")
                return known
        if application.state not in ("CREATED", "STARTED"):
            raise ValidationException(f"Application {application.id} is {application.state}. Cannot start job run.")
        application.state = "STARTED"
        run = start_job_run(self, **kwargs)
        run.state, run.state_details = "SUBMITTED", ""
        run.created_at = run.updated_at = datetime.now(UTC)
        run.execution_timeout_minutes = kwargs.get("execution_timeout_minutes") or DEFAULT_TIMEOUT_MINUTES
        run.created_by = run.execution_role_arn
        setattr(run, "attempt", 1)  # noqa: B010 (moto's class has none)
        runs.start(run)
        return run

    def cancel(self: models.EMRServerlessBackend, application_id: str, job_run_id: str) -> tuple[str, str]:
        run = self.get_job_run(application_id, job_run_id)
        with runs.lock:
            if run.state not in LIVE_STATES:
                raise ValidationException(f"Job run {job_run_id} is in terminal state {run.state}.")
            run.state, run.updated_at = "CANCELLING", datetime.now(UTC)
        runs.stop(run)
        return application_id, job_run_id

    def list_runs(self: models.EMRServerlessBackend, application_id: str, *args: Any, **kwargs: Any) -> Any:
        if application_id not in self.applications:
            raise ResourceNotFoundException(application_id, "Application")
        self.job_runs.setdefault(application_id, [])
        return list_job_runs(self, application_id, *args, **kwargs)

    list_job_runs = backend.list_job_runs
    for name, function in {
        "create_application": create,
        "start_job_run": start,
        "cancel_job_run": cancel,
        "list_job_runs": list_runs,
    }.items():
        setattr(backend, name, function)


def job_environment(url: str, credentials: dict[str, str]) -> dict[str, str]:
    """Return the environment of jobs: the machine's plain parts, and the emulated AWS. Nothing of the caller's AWS."""
    kept = ("HOME", "JAVA_HOME", "LANG", "LC_ALL", "PATH", "TMPDIR", "USER")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"AWS_ENDPOINT_URL": url} | credentials
