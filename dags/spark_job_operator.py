"""The provider's `EmrServerlessStartJobOperator`, for a job that must be neither lost nor doubled.

- A job of this run that is alive already (the task was killed, not the job) is adopted; one that an ended run has left
  on the lake is cancelled.
- A failure says why: EMR's words, the application's reason, the place of the log. While the job is alive and has time
  left it is waited for, whatever happens to the trigger; exits that would be the same again are not tried again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import Any

from airflow.providers.amazon.aws.operators.emr import EmrServerlessStartJobOperator
from airflow.providers.amazon.aws.triggers.emr import EmrServerlessStartJobTrigger
from dag_support import AirflowException, AirflowFailException, TaskDeferralError, TaskDeferralTimeout

from kpi_common.errors import AppError
from kpi_pipeline.emr import job as emr_job
from kpi_pipeline.emr.request import LAKE_OPTION, for_try

RETURN_KEY = "return_value"
REQUEST = ("application_id", "execution_role_arn", "name", "job_driver", "configuration_overrides", "config")
RETRIES = {"retries": {"mode": "standard", "total_max_attempts": 9}}


def run_state(ti: Any, dag_id: str, current: str, prefix: str = "") -> Callable[[str], str | None]:
    """Return a function that asks Airflow, once for each, for the state of another run; None where it knows none."""

    @cache  # a dead run may hold thousands of files, and each question is a request
    def state(run_id: str) -> str | None:
        if not run_id.startswith(prefix):  # another DAG's
            return None
        run_id = run_id.removeprefix(prefix)
        if run_id == current:
            return "running"
        for found in ("running", "queued"):
            if ti.get_dr_count(dag_id=dag_id, run_ids=[run_id], states=[found]):
                return found
        return "ended" if ti.get_dr_count(dag_id=dag_id, run_ids=[run_id]) else None

    return state


class SparkJobOperator(EmrServerlessStartJobOperator):
    """Runs the job of `build_job`; returns its id and the place of its log, as `SparkJob`, as soon as it is known.

    `run_prefix` stands before Airflow's run id in the request: jobs of several DAGs on a lake differ by it.
    """

    def __init__(self, *, poll_seconds: int = 30, run_prefix: str = "", **kwargs: Any) -> None:
        self.run_prefix = run_prefix
        kwargs = {"waiter_delay": poll_seconds, "botocore_config": RETRIES, "execution_timeout": None, **kwargs}
        super().__init__(enable_application_ui_links=True, **kwargs)

    @classmethod
    def of_request(cls, request: Any, **kwargs: Any) -> SparkJobOperator:
        """Return the operator of what `build_job` returns."""
        return cls(**{field: request[field] for field in REQUEST}, **kwargs)

    def render_template_fields(self, context: Any, jinja_env: Any = None) -> None:
        """Show the request as it is sent: each try has a client token and a run id of its own."""
        super().render_template_fields(context, jinja_env)
        run_id, number = f"{self.run_prefix}{context['run_id']}", context["ti"].try_number
        self.job_driver, self.config = for_try(self.job_driver, self.config, run_id, number)
        minutes = timedelta(minutes=self.config["executionTimeoutMinutes"]) + emr_job.MARGIN
        self.waiter_max_attempts = int(minutes.total_seconds()) // max(1, self.waiter_delay) + 1

    def execute(self, context: Any, event: dict[str, Any] | None = None) -> Any:
        """Adopt the run's live job or start one, then wait for its end."""
        state = run_state(context["ti"], self.dag_id, context["run_id"], self.run_prefix)
        lake = emr_job.option_of({"jobDriver": self.job_driver}, LAKE_OPTION)
        found = emr_job.live_job(self.hook.conn, self.application_id, str(self.name), lake, state)
        if found is None:
            self.wait_for_completion = False
            super().execute(context, event)
        else:
            self.job_id = found["jobRunId"]
            self.log.info("Adopting job %s of this run, which is alive already", self.job_id)
            self.persist_links(context)
        job = emr_job.get_job(self.hook.conn, self.application_id, str(self.job_id))
        place = emr_job.log_location(job)
        self.log.info("Log of the driver: %s", place)
        known = {"job_id": self.job_id, "log": place, "result": emr_job.result_uri(job)}
        context["ti"].xcom_push(key=RETURN_KEY, value=known)
        return self.wait_for_end(context)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Any) -> Any:
        """Ask EMR itself also where the trigger has failed or timed out: the job may be well."""
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except (TaskDeferralError, TaskDeferralTimeout) as error:
            self.log.info("The trigger says: %s", error)
            if context["ti"].xcom_pull(task_ids=self.task_id, key=RETURN_KEY) is None:
                raise  # it had waited for the application's start, not yet for a job
            return self.wait_for_end(context)

    def wait_for_end(self, context: Any, event: dict[str, Any] | None = None) -> Any:
        """Return the job when it has succeeded, or raise with all that is known of its failure."""
        self.log.info("Trigger: %s", event) if event else None
        known = context["ti"].xcom_pull(task_ids=self.task_id, key=RETURN_KEY)
        self.job_id = known["job_id"]
        state = ""
        while True:
            job = self._ask()
            since = job["createdAt"] if job is not None else context["ti"].start_date
            overdue = emr_job.is_overdue(since, self.config["executionTimeoutMinutes"])
            if job is None and overdue:
                raise AirflowException(f"EMR can't be asked for job {self.job_id}, which should be over by now")
            if job is not None and overdue and job["state"] not in emr_job.TERMINAL_STATES:
                self.log.warning("Job %s is still %s: it took too long", self.job_id, job["state"])
                job = emr_job.cancel(self.hook.conn, self.application_id, str(self.job_id))
            if job is not None and job["state"] != state:
                state = job["state"]
                self.log.info("Job %s is %s", self.job_id, state)
            if job is not None and state in emr_job.TERMINAL_STATES:
                return self._conclude(job, known)
            if self.deferrable:
                self._defer()
            time.sleep(self.waiter_delay)

    def on_kill(self) -> None:
        """Cancel the job and wait until it is over: CANCELLING still writes."""
        if self.job_id:
            job = emr_job.cancel(self.hook.conn, self.application_id, self.job_id)
            self.log.info("Task stopped: job %s is %s", self.job_id, job["state"])

    def _ask(self) -> dict[str, Any] | None:
        """Return what EMR says of the job, or None where it can't be asked now: throttled, no connection, no login."""
        try:
            return emr_job.get_job(self.hook.conn, self.application_id, str(self.job_id))
        except AppError as error:
            self.log.warning("Asked again later: %s", error)
            return None

    def _defer(self) -> None:
        self.defer(
            trigger=EmrServerlessStartJobTrigger(
                application_id=self.application_id,
                job_id=self.job_id,
                waiter_delay=self.waiter_delay,
                waiter_max_attempts=self.waiter_max_attempts,
                aws_conn_id=self.aws_conn_id,
            ),
            method_name="wait_for_end",
        )

    def _conclude(self, job: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
        result = emr_job.read_result(known["result"])
        if job["state"] == "SUCCESS" and result is not None:
            self.log.info("Job succeeded: %s", {k: result[k] for k in ("status", "seconds", "totals", "dirty_dates")})
            return known
        failure = emr_job.failure_of(job, result)
        raise (AirflowFailException if failure.exit_code_of_job in emr_job.FINAL_EXIT_CODES else AirflowException)(
            str(failure)
        ) from failure
