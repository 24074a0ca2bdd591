"""The provider's `EmrServerlessStartJobOperator`, and what a run that must be neither lost nor doubled needs beside it.

- A job of this run that is alive already (the task was killed, not the job) is adopted, not started a second time.
- It waits as long as the job may take, not the 25 minutes of the provider, and deferred it tells why a job failed
  (the provider's own way back from a failed trigger raises KeyError in 9.39).
- After a cancel it waits until the job is over: CANCELLING still writes.
- A failure has EMR's words, the application's reason and the place of the log; exits that would be the same again are
  not tried again.
"""

from __future__ import annotations

import time
from typing import Any

from airflow.providers.amazon.aws.operators.emr import EmrServerlessStartJobOperator
from airflow.providers.amazon.aws.triggers.emr import EmrServerlessStartJobTrigger

from kpi_pipeline.emr import job as spark_job

try:
    from airflow.sdk.exceptions import AirflowException, AirflowFailException, TaskDeferralError, TaskDeferralTimeout
except ImportError:  # Airflow 3.0
    from airflow.exceptions import AirflowException, AirflowFailException, TaskDeferralError, TaskDeferralTimeout

JOB_KEY = "job"
FAILURE_KEY = "failure"
MARGIN_MINUTES = 30  # for the application's start and EMR's own queue, beside the execution timeout


class SparkJobOperator(EmrServerlessStartJobOperator):
    """Runs the Spark application for the run that the task `claim_task` returned; returns the id of the EMR job."""

    def __init__(self, *, claim_task: str, poll_seconds: int = 30, **kwargs: Any) -> None:
        """Take nothing of the job itself: all of it is in the run."""
        nothing_yet: dict[str, Any] = {"application_id": "", "execution_role_arn": "", "job_driver": {}}
        super().__init__(**nothing_yet, waiter_delay=poll_seconds, waiter_max_attempts=1, **kwargs)
        self.claim_task = claim_task
        self.poll_seconds = poll_seconds

    def execute(self, context: Any, event: dict[str, Any] | None = None) -> str | None:  # noqa: ARG002
        """Adopt the run's live job or start one, then wait for its end."""
        from kpi_pipeline.steps import settings_of

        run = context["ti"].xcom_pull(task_ids=self.claim_task)
        settings, run_id = settings_of(run), run["run_id"]
        self.application_id, self.execution_role_arn = settings.emr_application_id, settings.execution_role_arn
        self.waiter_max_attempts = self._attempts(settings)
        live = spark_job.live_jobs(self.hook.conn, self.application_id, run_id)
        if live:
            self.job_id = live[0]
            self.log.info("Adopting job %s of this run, which is alive already", self.job_id)
            job = spark_job.get_job(self.hook.conn, self.application_id, self.job_id)
            spark_run_id = spark_job.spark_run_of(job)
        else:
            request = spark_job.job_request(settings, run_id, context["ti"].try_number, run["manifest"])
            self.name, self.job_driver = request.name, request.job_driver
            self.config = {**request.config, **self.config}
            self.configuration_overrides = request.configuration_overrides
            spark_run_id = request.spark_run_id
            self.log.info("Spark job: %s", request.job_driver)
            self.wait_for_completion = False
            super().execute(context)
        log_place = spark_job.log_location(settings, self.application_id, str(self.job_id))
        self.log.info("Log of the driver: %s", log_place)
        told = {"job_id": self.job_id, "spark_run_id": spark_run_id, "log": log_place}
        context["ti"].xcom_push(key=JOB_KEY, value=told)
        if self.deferrable:
            self._wait_deferred(told)
        self._wait(settings, str(self.job_id))
        return self.job_over(context, None, told)

    def job_over(self, context: Any, event: dict[str, Any] | None, told: dict[str, Any]) -> str:
        """Conclude: return the job's id, or raise with all that is known of its failure."""
        from kpi_common.s3_files import S3Storage
        from kpi_pipeline.files.outcome import read_result
        from kpi_pipeline.steps import settings_of

        settings = settings_of(context["ti"].xcom_pull(task_ids=self.claim_task))
        self.application_id = settings.emr_application_id
        emr, job_id = self.hook.conn, told["job_id"]
        self.job_id = job_id
        job = spark_job.get_job(emr, self.application_id, job_id)
        if job["state"] not in spark_job.TERMINAL_STATES:
            why = (event or {}).get("message", "it took too long")
            self.log.warning("Job %s is still %s (%s)", job_id, job["state"], why)
            spark_job.cancel(emr, self.application_id, job_id)
            job = spark_job.get_job(emr, self.application_id, job_id)
        result = read_result(S3Storage(), settings, told["spark_run_id"])
        if job["state"] == "SUCCESS" and result is not None:
            self.log.info("Job succeeded: %s", {k: result[k] for k in ("status", "seconds", "totals", "dirty_dates")})
            return str(job_id)
        failure = spark_job.failure_of(job, result, settings)
        context["ti"].xcom_push(key=JOB_KEY, value={**told, "exit_code": failure.exit_code_of_job})
        context["ti"].xcom_push(key=FAILURE_KEY, value=str(failure))
        if failure.exit_code_of_job in spark_job.FINAL_EXIT_CODES:
            raise AirflowFailException(str(failure))
        raise AirflowException(str(failure))

    def on_kill(self) -> None:
        """Cancel the job and wait until it is over (plain mode; deferred, the trigger cancels it)."""
        if self.job_id:
            self.log.info("Task stopped: cancelling job %s", self.job_id)
            state = spark_job.cancel(self.hook.conn, self.application_id, self.job_id)
            self.log.info("Job %s is %s", self.job_id, state)

    def _attempts(self, settings: Any) -> int:
        return (settings.execution_timeout_minutes + MARGIN_MINUTES) * 60 // max(1, self.poll_seconds) + 1

    def _wait(self, settings: Any, job_id: str) -> None:
        state = ""
        for _ in range(self._attempts(settings)):
            found = str(spark_job.get_job(self.hook.conn, self.application_id, job_id)["state"])
            if found != state:
                state = found
                self.log.info("Job %s is %s", job_id, state)
            if state in spark_job.TERMINAL_STATES:
                return
            time.sleep(self.poll_seconds)

    def _wait_deferred(self, told: dict[str, Any]) -> None:
        self.defer(
            trigger=EmrServerlessStartJobTrigger(
                application_id=self.application_id,
                job_id=str(told["job_id"]),
                waiter_delay=self.poll_seconds,
                waiter_max_attempts=self.waiter_max_attempts,
                aws_conn_id=self.aws_conn_id,
            ),
            method_name="resume",
        )

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Any) -> Any:
        """Conclude from what EMR says also where the trigger has failed or timed out (that of 9.12 raises)."""
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except (TaskDeferralError, TaskDeferralTimeout) as error:
            told = context["ti"].xcom_pull(task_ids=self.task_id, key=JOB_KEY)
            if told is None:  # it had waited for the application's start, not yet for a job
                raise
            self.log.info("The trigger says: %s", error)
            return self.job_over(context, {"message": str(error)}, told)

    def resume(self, context: Any, event: dict[str, Any] | None = None) -> str:
        """Go on when the trigger has fired, however that ended."""
        return self.job_over(context, event, context["ti"].xcom_pull(task_ids=self.task_id, key=JOB_KEY))
