"""# music_streaming_pipeline

Takes the CSV files of listens, songs and users that have arrived in S3, computes daily and hourly KPIs with one Spark
job on EMR Serverless, and delivers them to DynamoDB.

**Is a rerun safe? Always:** of a task, of the whole run, by hand or by the scheduler, after any failure. What is done is
not done again, no row is counted twice.

## Tasks

| task | what it does | when it fails |
|---|---|---|
| `wait_for_streams` | waits for a file in `streams/`; when none comes, the run goes on to finish what is left | a missing setting is named in its log; else the bucket or the role is wrong |
| `claim_files` | claims new files in `ProcessedStreams`, writes the run manifest; nothing to do skips the rest | DynamoDB or S3 can't be reached: clear the task |
| `validate_inputs` | songs and users are there, headers are right; before a cluster is paid for | put the missing reference files into `songs/` or `users/`, clear the task |
| `run_spark_app` | runs the Spark job, or adopts the run's job that is alive | the message has the exit code, the reason and the place of the log; see below |
| `prepare_delivery` | checks the export, makes tables that are missing | a table has another layout: see the message |
| `write_to_dynamodb` | writes what differs, one task instance a part of the export | throttled for too long: raise the table's capacity or lower `max_write_rate`, clear the task |
| `verify_dynamodb` | reads all back, then marks the days complete | somebody else writes these tables |
| `mark_as_processed` | `success` or `rejected` for each file; an alert tells what was rejected | clear the task |
| `archive_files` | moves what is done to the archive, and rejected files to `rejected/` | clear the task; the next run does it too |
| `clean_up` | deletes the run's intermediate files | harmless; the next runs do it |
| `mark_failed` | gives the claims of a failed run back, sends the alert | the next run gives them up by itself |

## When `run_spark_app` fails

| exit code | meaning | what to do |
|---|---|---|
| 1 | anything else: out of memory, S3, a lost worker | it was tried again; read the log, then start a run |
| 2 | wrong settings | correct `job_settings` or the image, then start a run; the files are not blamed for it |
| 3 | nothing usable: every file was rejected | the alert has the reasons; nothing to start again |
| 4 | the audit failed: nothing was published | read `audit` in `result.json`; a release may be bad: see `rebuild` and `restore` |

The files stay where they are and the next run takes them again. A file whose job has failed `max_attempts` times is set
aside in `rejected/`, with an alert. A rejected file is taken again when a corrected one comes under its name, or when it
is released: `python -m kpi_pipeline files release NAME`, and `files retry NAME` of the Spark application if that had
rejected it.

## Settings

Each is a param of the run, else a Variable, else its default; `bucket_name`, `emr_application_id` and `execution_role_arn`
have none. Variables of their own have these three and `source_bucket`, `intermediate_bucket`, `archive_bucket`,
`table_prefix`, `database_name`, `alert_emails`, `alert_topic_arn`; all others go into the Variable
`music_streaming_pipeline`, a JSON object. What is read when this file is parsed comes from the environment:

| environment variable | default | |
|---|---|---|
| `MUSIC_KPIS_DAG_SCHEDULE` | `daily` | `daily`, `manual`, `on_arrival`, or a cron expression |
| `MUSIC_KPIS_DAG_QUEUE_URL` | | with `on_arrival`: the SQS queue of the bucket's notifications |
| `MUSIC_KPIS_DAG_DEFERRABLE` | `true` | `false`: tasks wait on a worker, no triggerer is needed |
| `MUSIC_KPIS_DAG_AWS_CONN_ID` | `aws_conn` | the AWS connection; where there is none, the environment's role counts |
| `MUSIC_KPIS_DAG_SMTP_CONN_ID` | `smtp_default` | the connection for e-mails |
| `MUSIC_KPIS_DAG_OWNER` | `data-platform` | |
| `MUSIC_KPIS_DAG_RETRIES`, `…_RETRY_SECONDS` | 2, 60 | |
| `MUSIC_KPIS_DAG_WAIT_SECONDS` | 3600; 60 with `on_arrival` | how long to wait for a file |
| `MUSIC_KPIS_DAG_POLL_SECONDS` | 30 | how often to look |
"""  # noqa: D415, E501

from __future__ import annotations

import functools
import logging
import os
from datetime import datetime, timedelta, timezone
from typing import Any, Callable

from airflow.providers.amazon.aws.sensors.s3 import S3KeySensor
from airflow.sdk import DAG, Param, Variable, task

from kpi_pipeline.pipeline_settings import PipelineSettings, load_pipeline_settings, setting_names
from spark_job_operator import FAILURE_KEY, JOB_KEY, SparkJobOperator

try:
    from airflow.sdk.exceptions import AirflowSkipException
except ImportError:  # Airflow 3.0
    from airflow.exceptions import AirflowSkipException

DAG_ID = "music_streaming_pipeline"
ENVIRONMENT = "MUSIC_KPIS_DAG_"
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
SETTINGS_VARIABLE = "music_streaming_pipeline"
TASKS_THAT_TELL = (
    "claim_files",
    "validate_inputs",
    "run_spark_app",
    "prepare_delivery",
    "write_to_dynamodb",
    "verify_dynamodb",
    "mark_as_processed",
    "archive_files",
    "clean_up",
)


def from_environment(name: str, default: str) -> str:
    """Return what counts when this file is parsed; no database is read for that."""
    return os.environ.get(f"{ENVIRONMENT}{name}") or default


AWS_CONN_ID = from_environment("AWS_CONN_ID", "aws_conn")
SMTP_CONN_ID = from_environment("SMTP_CONN_ID", "smtp_default")
DEFERRABLE = from_environment("DEFERRABLE", "true").lower() in ("true", "1", "yes")
SCHEDULE = from_environment("SCHEDULE", "daily")
# Several files that arrive together start several runs: all but the first find nothing, and shouldn't wait for more.
WAIT_SECONDS = float(from_environment("WAIT_SECONDS", "60" if SCHEDULE == "on_arrival" else "3600"))
POLL_SECONDS = int(from_environment("POLL_SECONDS", "30"))


def schedule() -> Any:
    """Return the schedule: daily, by hand, a cron expression, or whenever a file arrives."""
    if SCHEDULE == "manual":
        return None
    if SCHEDULE != "on_arrival":
        return "@daily" if SCHEDULE == "daily" else SCHEDULE
    from airflow.providers.amazon.aws.triggers.sqs import SqsSensorTrigger
    from airflow.sdk import Asset, AssetWatcher

    queue = from_environment("QUEUE_URL", "")
    if not queue:
        raise ValueError(f"{ENVIRONMENT}SCHEDULE=on_arrival needs {ENVIRONMENT}QUEUE_URL")
    trigger = SqsSensorTrigger(sqs_queue=queue, aws_conn_id=AWS_CONN_ID, waiter_delay=POLL_SECONDS)
    return [Asset("music_streaming_files", watchers=[AssetWatcher(name="new_file", trigger=trigger)])]


# --- what tasks need of Airflow ---


def read_settings(params: Any) -> PipelineSettings:
    """Return the settings: params of the run, then Variables by name, then the Variable with all others as JSON."""
    others: Any = Variable.get(SETTINGS_VARIABLE, default=None, deserialize_json=True) or {}

    def variable(name: str) -> Any:
        return Variable.get(name, default=None) if name in VARIABLES else None

    return load_pipeline_settings(params.get, variable, others.get)


def setting(name: str, params: Any) -> str:
    """Return one setting, for templates; whatever is missing is told at once."""
    return str(getattr(read_settings(params), name))


def connect() -> None:
    """Let the steps use the Airflow connection, and log through Airflow."""
    from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook

    from kpi_common.aws import use_sessions

    use_sessions(lambda: AwsBaseHook(aws_conn_id=AWS_CONN_ID, client_type="s3").get_session())
    logging.getLogger("kpi_pipeline").setLevel(logging.INFO)


def smtp_server() -> Any:
    """Return the e-mail server of the Airflow connection, or None where there is no such connection."""
    from airflow.sdk import Connection

    from kpi_pipeline.alerts.failure_alert import DEFAULT_SMTP_PORT, SmtpServer

    try:
        found = Connection.get(SMTP_CONN_ID)
    except Exception as error:  # noqa: BLE001 (Airflow 3.0 and 3.3 raise different ones)
        logging.getLogger("kpi_pipeline").info("No SMTP connection %s: %s", SMTP_CONN_ID, error)
        return None
    extra = found.extra_dejson
    disabled = str(extra.get("disable_tls", "false")).lower() == "true"
    tls = "ssl" if str(extra.get("disable_ssl", "true")).lower() == "false" else "" if disabled else "starttls"
    port = int(found.port or DEFAULT_SMTP_PORT)
    return SmtpServer(found.host or "localhost", port, found.login or "", found.password or "", tls)


def telling(function: Callable[..., Any]) -> Callable[..., Any]:
    """Connect, and keep a failure's message for `mark_failed` and the alert."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        from airflow.sdk import get_current_context

        connect()
        try:
            return function(*args, **kwargs)
        except AirflowSkipException:
            raise
        except Exception as error:
            get_current_context()["ti"].xcom_push(key=FAILURE_KEY, value=f"{type(error).__name__}: {error}")
            raise

    return wrapped


def run_state(context: Any) -> Callable[[str], str | None]:
    """Return a function that asks Airflow for the state of another run."""

    def state(run_id: str) -> str | None:
        ti = context["ti"]
        if run_id == context["run_id"]:
            return "running"
        for found in ("running", "queued"):
            if ti.get_dr_count(dag_id=DAG_ID, run_ids=[run_id], states=[found]):
                return found
        return "ended" if ti.get_dr_count(dag_id=DAG_ID, run_ids=[run_id]) else None

    return state


def claimed_run(ti: Any) -> Any:
    """Return what claim_files returned; the task is skipped when there was nothing to do."""
    run = ti.xcom_pull(task_ids="claim_files")
    if run is None:
        raise AirflowSkipException("nothing to do")
    return run


def spark_run_id_of(ti: Any) -> str | None:
    """Return the application's run id, or None where no job ran."""
    job = ti.xcom_pull(task_ids="run_spark_app", key=JOB_KEY)
    return job["spark_run_id"] if job else None


def alert_of_task(context: Any) -> None:
    """Send an alert when `mark_failed` itself has failed."""
    from kpi_pipeline.alerts.failure_alert import Alert, send_alert

    connect()
    text = f"Task {context['ti'].task_id} of run {context['run_id']} has failed: {context.get('exception')}"
    alert = Alert(f"{DAG_ID}: {context['ti'].task_id} failed", text)
    send_alert(read_settings(context["params"]), smtp_server(), alert)


# --- the DAG ---

with DAG(
    dag_id=DAG_ID,
    description="Music streaming KPIs: S3, Spark on EMR Serverless, DynamoDB",
    doc_md=__doc__,
    schedule=schedule(),
    start_date=datetime(2024, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    max_active_runs=1,
    tags=["music-streaming", "kpi", "emr-serverless", "dynamodb"],
    params={
        name: Param(None, type=["null", "string", "number", "object", "boolean"], description=description)
        for name, description in setting_names().items()
    },
    user_defined_macros={"setting": setting},
    default_args={
        "owner": from_environment("OWNER", "data-platform"),
        "retries": int(from_environment("RETRIES", "2")),
        "retry_delay": timedelta(seconds=float(from_environment("RETRY_SECONDS", "60"))),
        "execution_timeout": timedelta(hours=2),
    },
) as dag:
    wait_for_streams = S3KeySensor(
        task_id="wait_for_streams",
        doc_md="Waits for a file in `streams/`; when none comes in time, the run goes on without.",
        bucket_name="{{ setting('source_bucket', params) }}",
        bucket_key="{{ setting('streams_pattern', params) }}",
        wildcard_match=True,
        aws_conn_id=AWS_CONN_ID,
        poke_interval=POLL_SECONDS,
        timeout=WAIT_SECONDS,
        mode="poke" if DEFERRABLE else "reschedule",
        soft_fail=True,
        deferrable=DEFERRABLE,
    )

    @task(trigger_rule="none_failed")
    @telling
    def claim_files(params: Any = None, run_id: Any = None, **context: Any) -> Any:
        """Claim new files and write the run manifest; skip the rest when there is nothing to do."""
        from kpi_pipeline import steps

        found = steps.claim_files(read_settings(params), run_id, run_state({**context, "run_id": run_id}))
        if found is None:
            raise AirflowSkipException("nothing new, nothing failed before, nothing undelivered")
        return found

    @task
    @telling
    def validate_inputs(ti: Any = None) -> None:
        """Check reference files and headers; skip the Spark job when it would have nothing to do."""
        from kpi_pipeline import steps

        if not steps.validate_inputs(claimed_run(ti), smtp_server()):
            raise AirflowSkipException("no Spark job is needed")

    @task(trigger_rule="none_failed")
    @telling
    def prepare_delivery(ti: Any = None) -> Any:
        """Check the newest undelivered export and list its parts."""
        from kpi_pipeline import steps

        return steps.prepare_delivery(claimed_run(ti))

    @task(max_active_tis_per_dagrun=4, doc_md="Make DynamoDB's items of a part's days equal to the export's.")
    @telling
    def write_to_dynamodb(part: Any, ti: Any = None) -> Any:
        """Make DynamoDB's items of a part's days equal to the export's."""
        from kpi_pipeline import steps

        return steps.write_part(claimed_run(ti), part)

    @task
    @telling
    def verify_dynamodb(written: Any, ti: Any = None) -> Any:
        """Read everything back, mark the days complete, write the receipt."""
        from kpi_pipeline import steps

        return steps.verify_delivery(claimed_run(ti), written)

    @task(trigger_rule="none_failed")
    @telling
    def mark_as_processed(ti: Any = None) -> Any:
        """Write into ProcessedStreams what became of each file."""
        from kpi_pipeline import steps

        return steps.mark_as_processed(claimed_run(ti), spark_run_id_of(ti), smtp_server())

    @task
    @telling
    def archive_files(ti: Any = None) -> Any:
        """Copy, check, then delete what is done."""
        from kpi_pipeline import steps

        return steps.archive_files(claimed_run(ti), spark_run_id_of(ti))

    # A leaf beside mark_failed: so the run is failed, not saved, when something has failed.
    @task(on_failure_callback=alert_of_task)
    @telling
    def clean_up(ti: Any = None) -> Any:
        """Delete intermediate files."""
        from kpi_pipeline import steps

        return steps.clean_up(claimed_run(ti))

    @task(trigger_rule="one_failed", on_failure_callback=alert_of_task)
    def mark_failed(params: Any = None, run_id: Any = None, ti: Any = None) -> Any:
        """Give the run's claims back and send the alert."""
        from kpi_pipeline import steps

        connect()
        states = ti.get_task_states(dag_id=DAG_ID, run_ids=[run_id]).get(run_id, {})
        failed = {_task_of(name) for name, state in states.items() if state == "failed"}
        told = {name: ti.xcom_pull(task_ids=name, key=FAILURE_KEY) for name in TASKS_THAT_TELL if name in failed}
        failures = {name: _first(told.get(name)) or "" for name in sorted(failed)}
        job = ti.xcom_pull(task_ids="run_spark_app", key=JOB_KEY)
        return steps.mark_failed(read_settings(params), run_id, failures, job, smtp_server())

    def _task_of(name: str) -> str:
        """Return the task of a mapped instance, `write_to_dynamodb_3`."""
        stem, _, number = name.rpartition("_")
        return stem if number.isdigit() else name

    def _first(value: Any) -> str | None:
        """Return the message of a task, or of the first of its mapped instances that told one."""
        if isinstance(value, str) or value is None:
            return value
        return next((one for one in value if one), None)

    run_spark_app = SparkJobOperator(
        task_id="run_spark_app",
        doc_md="Starts the Spark application on EMR Serverless, or adopts this run's job that is alive.",
        claim_task="claim_files",
        aws_conn_id=AWS_CONN_ID,
        poll_seconds=POLL_SECONDS,
        deferrable=DEFERRABLE,
        execution_timeout=None,
    )
    parts = prepare_delivery()
    archived = archive_files()

    wait_for_streams >> claim_files() >> validate_inputs() >> run_spark_app >> parts
    verify_dynamodb(write_to_dynamodb.expand(part=parts)) >> mark_as_processed() >> archived
    archived >> [clean_up(), mark_failed()]
