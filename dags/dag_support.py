"""What the DAGs have in common: the environment that counts when they are parsed, and what tasks need of Airflow."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any
from urllib.parse import quote

from airflow.configuration import conf
from airflow.sdk import Asset, Param, Variable

from kpi_pipeline.errors import public_reason
from kpi_pipeline.settings import (
    SETTINGS_VARIABLE,
    AlertSettings,
    load_alert_settings,
    param_schemas,
    settings_variable,
)

try:
    from airflow.sdk.exceptions import (
        AirflowException,
        AirflowFailException,
        AirflowSkipException,
        TaskDeferralError,
        TaskDeferralTimeout,
    )
except ImportError:  # Airflow 3.0
    from airflow.exceptions import (
        AirflowException,
        AirflowFailException,
        AirflowSkipException,
        TaskDeferralError,
        TaskDeferralTimeout,
    )

__all__ = [
    "AirflowException",
    "AirflowFailException",
    "AirflowSkipException",
    "TaskDeferralError",
    "TaskDeferralTimeout",
]

ENVIRONMENT = "MUSIC_KPIS_DAG_"
FAILURE_KEY = "failure"
# Each Variable costs a request, and a line in the log where it isn't set: so only these have one of their own.
VARIABLES = (
    "bucket_name",
    "source_bucket",
    "intermediate_bucket",
    "archive_bucket",
    "emr_application_id",
    "execution_role_arn",
    "table_prefix",
    "database_name",
    "alert_emails",
    "alert_topic_arn",
)
# An event for the begin and the end of each run; the extra has `event`, `run_id` and the shares of bad rows.
RUNS = Asset("music_streaming_runs")


def from_environment(name: str, default: str) -> str:
    """Return what counts when this file is parsed; no database is read for that."""
    return os.environ.get(f"{ENVIRONMENT}{name}") or default


AWS_CONN_ID = from_environment("AWS_CONN_ID", "aws_conn")
DEFERRABLE = from_environment("DEFERRABLE", "true").lower() in ("true", "1", "yes")
POLL_SECONDS = int(from_environment("POLL_SECONDS", "30"))
PARAMS = {name: Param(None, **schema) for name, schema in param_schemas().items()}
DEFAULT_ARGS = {
    "owner": from_environment("OWNER", "data-platform"),
    "retries": int(from_environment("RETRIES", "2")),
    "retry_delay": timedelta(seconds=float(from_environment("RETRY_SECONDS", "60"))),
    "execution_timeout": timedelta(hours=2),
}


def connect() -> Any:
    """Let the steps use the Airflow connection, and return them."""
    from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook

    from kpi_common.aws import use_sessions
    from kpi_pipeline import steps

    use_sessions(lambda: AwsBaseHook(aws_conn_id=AWS_CONN_ID, client_type="s3").get_session())
    return steps


def lookups(params: Any) -> tuple[Any, Any, Any]:
    """Return where settings are looked up: params of the run, Variables by name, the Variable with all others."""
    others = settings_variable(Variable.get(SETTINGS_VARIABLE, default=None))
    return params.get, lambda name: Variable.get(name, default=None) if name in VARIABLES else None, others.get


def send(settings: AlertSettings | dict[str, Any], alert: Any) -> None:
    """Send an alert, if there is one."""
    from alert_channels import send as send_by_channels

    if isinstance(settings, dict):
        settings = AlertSettings(**{name: settings[name] for name in AlertSettings.model_fields})
    send_by_channels(settings, alert)


def address_of(dag_id: str, run_id: str = "", task_id: str = "") -> str:
    """Return the address of a DAG, run or task in Airflow's UI; "" where Airflow doesn't know its own."""
    base = conf.get("api", "base_url", fallback="").rstrip("/")
    parts = (("dags", dag_id), ("runs", run_id), ("tasks", task_id))
    return "/".join((base, *(f"{kind}/{quote(name)}" for kind, name in parts if name))) if base else ""


def _reason(context: Any) -> str:
    """Return what may leave the log of a failed task; "" where it isn't known."""
    ti, error = context["ti"], context.get("exception")
    log = address_of(ti.dag_id, context["run_id"], ti.task_id) or f"task {ti.task_id} in Airflow"
    return public_reason(error, log) if isinstance(error, BaseException) else ""


def note_failure(context: Any) -> None:
    """Keep the reason of a failed task for `mark_failed`, also where it failed after its function had returned."""
    context["ti"].xcom_push(key=FAILURE_KEY, value=_reason(context))


def alert_of_task(context: Any) -> None:
    """Send an alert of a failed task that no other task tells of."""
    from kpi_pipeline.alerts.messages import NO_REASON, alert

    dag_id, task_id, run_id = context["ti"].dag_id, context["ti"].task_id, context["run_id"]
    lines = [f"Task {task_id} of run {run_id} has failed: {_reason(context) or NO_REASON}"]
    failed = alert("task_failed", "critical", f"{dag_id}: {task_id} failed", lines, run_id, dag_id)
    send(load_alert_settings(*lookups(context["params"])), failed)
