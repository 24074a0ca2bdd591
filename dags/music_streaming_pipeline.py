"""# music_streaming_pipeline

Takes the CSV files of listens, songs and users that have arrived in S3, computes daily and hourly KPIs with one Spark
job on EMR Serverless, and delivers them to DynamoDB, and to Redshift if that is set.

**Is a rerun safe? Always:** of a task, of the whole run, by hand or by the scheduler, after any failure. What is done is
not done again, no row is counted twice.

## Tasks

| task | what it does | when it fails |
|---|---|---|
| `read_settings` | reads all settings, once for the whole run | a setting is missing or wrong: its log names it |
| `wait_for_streams` | waits for a file in `streams/`; when none comes, the run goes on to finish what is left | the bucket or the role is wrong |
| `claim_files` | claims new files in `ProcessedStreams`, writes the run manifest; nothing to do skips the rest | DynamoDB or S3 can't be reached: clear the task |
| `validate_inputs` | songs and users are there, headers are right; before a cluster is paid for | put the missing reference files into `songs/` or `users/`, clear the task |
| `build_job` | puts the Spark job's request together; it is shown under "Rendered Template" of the next task | a setting of the job is wrong |
| `run_spark_app` | runs the Spark job, or adopts the run's job that is alive; links to dashboard and logs | the message has the exit code, the reason and the place of the log; see below |
| `prepare_delivery` | checks the export, makes tables that are missing, puts its parts into groups | a table has another layout: see the message |
| `write_to_dynamodb` | writes what differs, one task instance for each group of parts | throttled for too long: raise the table's capacity or lower `max_write_rate`, clear the task |
| `verify_dynamodb` | reads all back, then marks the days complete and emits the assets | somebody else writes these tables |
| `mark_as_processed` | `success` or `rejected` for each file; an alert says what was rejected | clear the task |
| `archive_files` | moves what is done to the archive, and rejected files to `rejected/` | clear the task; the next run does it too |
| `prepare_redshift` | if `redshift_…` is set: makes missing tables, finds exports that Redshift has not got | Redshift can't be reached, or its settings are wrong |
| `load_redshift` | loads these, one transaction for each; see `docs/redshift.md` | the message says which statement, and why; clear `prepare_redshift` |
| `mark_failed` | gives the claims of a failed run back, cancels its job if that is still alive, sends the alert | the next run gives them up by itself |
| `report_run` | figures of the run to CloudWatch and Prometheus; an alert when they are unusual | harmless: the log says why |
| `done` | green only when all of the run is done | |
| `clean_up` | deletes the run's intermediate files; those of a failed run are kept for some days | harmless; the next runs do it |

A failed run can be continued: clear `claim_files` with all that comes after it. It takes the files of its manifest again.
A run that was marked failed by hand leaves no job behind: the next run cancels it before it starts its own. Airflow
calls such a run a success once its teardown is done, as it skips all other tasks.
The DAG `music_streaming_maintenance` compacts the lake once a week.

## When `run_spark_app` fails

| exit code | meaning | what to do |
|---|---|---|
| 1 | anything else: S3, the lake's lock, a lost worker | it was tried again; read the log, then start a run |
| 2 | wrong settings | correct `job_settings` or the image, then start a run |
| 3 | nothing usable: every file was rejected | the alert has the reasons; nothing to start again |
| 4 | the audit failed: nothing was published | read `audit` in `result.json`; a release may be bad: see `rebuild` and `restore` |
| 52, 137 | out of memory | start a run: it tries the files in groups, so that a bad one is found |

The files stay where they are and the next run takes them again. Only where the application itself died while it judged
files (not by quota, role, image, lock, disk or a cancelled job) it tries these in smaller groups from then on; a file
of which three runs died alone is rejected as `run_died`, with an alert; songs and users stay where they are even then.
A rejected file is taken again when a corrected one comes under its name, or when it is released:
`./build.sh pipeline files release NAME --source s3://BUCKET/raw --rejected s3://BUCKET/rejected`, or all of a kind with
`--reason run_died`, and then `files retry NAME` of the Spark application.

## For other DAGs

The assets `music_streaming_kpis_dynamodb` and `music_streaming_kpis_lake` are emitted when days are complete; their
extra has `dates`, `complete_through`, `export` and `export_seq`.

## Settings

Each is a param of the run (the form shows types, limits and defaults), else a Variable, else its default; `bucket_name`, `emr_application_id` and `execution_role_arn`
have none. Secrets don't belong here: name them as `EMR.secret@…`. Variables of their own have these three and `source_bucket`, `intermediate_bucket`, `archive_bucket`,
`table_prefix`, `database_name`, `alert_emails`, `alert_topic_arn`; all others go into the Variable
`music_streaming_pipeline`, a JSON object. What is read when this file is parsed comes from the environment:

| environment variable | default | |
|---|---|---|
| `MUSIC_KPIS_DAG_SCHEDULE` | `daily` | `daily`, `manual`, `on_arrival`, or a cron expression |
| `MUSIC_KPIS_DAG_QUEUE_URL` | | with `on_arrival`: the SQS queue of the bucket's notifications |
| `MUSIC_KPIS_DAG_DEFERRABLE` | `true` | `false`: tasks wait on a worker, no triggerer is needed |
| `MUSIC_KPIS_DAG_AWS_CONN_ID` | `aws_conn` | the AWS connection; where there is none, the environment's role counts |
| `MUSIC_KPIS_DAG_SMTP_CONN_ID` | `smtp_default` | the connection for e-mails; a login needs TLS |
| `MUSIC_KPIS_DAG_OWNER` | `data-platform` | |
| `MUSIC_KPIS_DAG_RETRIES`, `…_RETRY_SECONDS` | 2, 60 | |
| `MUSIC_KPIS_DAG_WAIT_SECONDS` | 3600; 60 with `on_arrival` | how long to wait for a file |
| `MUSIC_KPIS_DAG_POLL_SECONDS` | 30 | how often to look |
"""  # noqa: D415, E501

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from airflow.configuration import conf
from airflow.providers.amazon.aws.sensors.s3 import S3KeySensor
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Asset, task
from dag_support import (
    AWS_CONN_ID,
    DEFAULT_ARGS,
    DEFERRABLE,
    ENVIRONMENT,
    FAILURE_KEY,
    PARAMS,
    POLL_SECONDS,
    RUNS,
    AirflowSkipException,
    alert_of_task,
    connect,
    from_environment,
    lookups,
    note_failure,
    send,
)
from redshift_load_operator import RedshiftLoadOperator
from spark_job_operator import SparkJobOperator, run_state

from kpi_pipeline.settings import load_alert_settings, load_pipeline_settings

DAG_ID = "music_streaming_pipeline"
KPIS_IN_DYNAMODB = Asset("music_streaming_kpis_dynamodb")
KPIS_IN_LAKE = Asset("music_streaming_kpis_lake")
WRITERS = 4  # tasks at once
# What goes on after a Spark job, and where none was needed; not where there was nothing to do at all.
AFTER_JOB = "none_failed_min_one_success"


SCHEDULE = from_environment("SCHEDULE", "daily")
# Several files that arrive together start several runs: all but the first find nothing, and shouldn't wait for more.
WAIT_SECONDS = float(from_environment("WAIT_SECONDS", "60" if SCHEDULE == "on_arrival" else "3600"))
MAX_GROUPS = min(256, conf.getint("core", "max_map_length", fallback=1024))


def schedule() -> Any:
    """Return the schedule: daily, by hand, a cron expression, or whenever a file arrives."""
    if SCHEDULE == "manual":
        return None
    if SCHEDULE != "on_arrival":
        return "@daily" if SCHEDULE == "daily" else SCHEDULE
    from airflow.providers.amazon.aws.triggers.sqs import SqsSensorTrigger
    from airflow.sdk import AssetWatcher

    queue = from_environment("QUEUE_URL", "")
    if not queue:
        raise ValueError(f"{ENVIRONMENT}SCHEDULE=on_arrival needs {ENVIRONMENT}QUEUE_URL")
    trigger = SqsSensorTrigger(sqs_queue=queue, aws_conn_id=AWS_CONN_ID, waiter_delay=POLL_SECONDS)
    return [Asset("music_streaming_files", watchers=[AssetWatcher(name="new_file", trigger=trigger)])]


def reasons(ti: Any, run_id: str) -> dict[str, str]:
    """Return what each failed task of the run has failed of, "" where that could not be recorded."""
    states = ti.get_task_states(dag_id=DAG_ID, run_ids=[run_id]).get(run_id, {})
    failed = sorted({_task_of(name) for name, state in states.items() if state == "failed"})
    return {name: _first(ti.xcom_pull(task_ids=name, key=FAILURE_KEY)) for name in failed}


def _task_of(name: str) -> str:
    """Return the task of a mapped instance, `write_to_dynamodb_3`."""
    stem, _, number = name.rpartition("_")
    return stem if number.isdigit() else name


def _first(found: Any) -> str:
    """Return the reason of a task, or of the first of its mapped instances that has one."""
    return next((one for one in ([found] if isinstance(found, str) else found or []) if one), "")


# --- the DAG ---

with DAG(
    dag_id=DAG_ID,
    description="Music streaming KPIs: S3, Spark on EMR Serverless, DynamoDB",
    doc_md=__doc__,
    schedule=schedule(),
    start_date=datetime(2024, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    tags=["music-streaming", "kpi", "emr-serverless", "dynamodb"],
    params=PARAMS,
    default_args={**DEFAULT_ARGS, "on_failure_callback": note_failure},
) as dag:

    @task(multiple_outputs=True, outlets=[RUNS])
    def read_settings(params: Any = None, run_id: Any = None, outlet_events: Any = None) -> dict[str, Any]:
        """Read all settings once, for the whole run: params of the run, Variables, defaults."""
        settings = load_pipeline_settings(*lookups(params))
        outlet_events[RUNS].extra = {"event": "begun", "run_id": run_id}
        return {"settings": settings.to_json(), "arrivals": settings.arrivals}

    @task(trigger_rule=AFTER_JOB)
    def claim_files(settings: dict[str, Any], run_id: Any = None, ti: Any = None) -> Any:
        """Claim new files and write the run manifest; skip the rest when there is nothing to do."""
        run = connect().claim_files(settings, run_id, run_state(ti, DAG_ID, run_id))
        if run is None:
            raise AirflowSkipException("nothing new, nothing failed before, nothing undelivered")
        return run

    @task
    def validate_inputs(run: Any) -> None:
        """Check reference files and headers; skip the Spark job when it would have nothing to do."""
        job_needed, alert = connect().validate_inputs(run)
        send(run["settings"], alert)
        if not job_needed:
            raise AirflowSkipException("no Spark job is needed")

    @task(multiple_outputs=True)
    def build_job(run: Any) -> dict[str, Any]:
        """Put the Spark job's request together."""
        return connect().build_job(run)

    @task(trigger_rule=AFTER_JOB)
    def prepare_delivery(run: Any) -> Any:
        """Check the newest undelivered export and put its parts into groups."""
        groups, alert = connect().prepare_delivery(run, MAX_GROUPS)
        send(run["settings"], alert)
        return groups

    @task(max_active_tis_per_dagrun=WRITERS, doc_md="Make DynamoDB's items of some days equal to the export's.")
    def write_to_dynamodb(group: Any, run: Any) -> Any:
        """Make DynamoDB's items of some days equal to the export's."""
        return connect().write_parts(run, group)

    @task(outlets=[KPIS_IN_DYNAMODB, KPIS_IN_LAKE])
    def verify_dynamodb(run: Any, written: Any, outlet_events: Any = None) -> Any:
        """Read everything back, mark the days complete, write the receipt, tell other DAGs which days these are."""
        delivered, alert = connect().verify_delivery(run, written)
        send(run["settings"], alert)
        if delivered is None:
            raise AirflowSkipException("a newer export has taken this one's place")
        for asset in (KPIS_IN_DYNAMODB, KPIS_IN_LAKE):
            outlet_events[asset].extra = dict(delivered)
        return delivered

    @task(trigger_rule=AFTER_JOB)
    def mark_as_processed(run: Any, job: Any) -> Any:
        """Write into ProcessedStreams what became of each file."""
        outcomes, alert = connect().mark_as_processed(run, job)
        send(run["settings"], alert)
        return outcomes

    @task(trigger_rule=AFTER_JOB)
    def archive_files(run: Any, job: Any) -> Any:
        """Copy, check, then delete what is done."""
        moved, alert = connect().archive_files(run, job)
        send(run["settings"], alert)
        return moved

    @task(trigger_rule=AFTER_JOB)
    def prepare_redshift(run: Any, archived: Any) -> Any:  # noqa: ARG001 (by then the files are settled)
        """Make Redshift's tables, and return what loads the exports that it has not got."""
        found = connect().prepare_redshift(run)
        if not found:
            raise AirflowSkipException("Redshift is not set, or has all days")
        return found

    @task(on_failure_callback=alert_of_task)
    def clean_up(run: Any, archived: Any) -> Any:
        """Delete intermediate files; a failed run keeps its own, so that it can be continued."""
        if run is None:
            raise AirflowSkipException("nothing was begun")
        return connect().clean_up(run, done=archived is not None)

    @task(trigger_rule="one_failed", on_failure_callback=alert_of_task)
    def mark_failed(settings: Any, job: Any, params: Any = None, run_id: Any = None, ti: Any = None) -> Any:
        """Give the run's claims back, cancel its job if that is still alive, send the alert."""
        from kpi_pipeline.alerts.messages import run_failed
        from kpi_pipeline.files.outcome import FileOutcomes

        failures = reasons(ti, run_id)
        if settings is None:
            send(load_alert_settings(*lookups(params)), run_failed(run_id, failures, FileOutcomes(), {}))
            return None
        outcomes, alert = connect().mark_failed(settings, run_id, failures, job)
        send(settings, alert)
        return outcomes

    @task(trigger_rule="all_done", inlets=[RUNS], outlets=[RUNS], on_failure_callback=alert_of_task)
    def report_run(
        settings: Any,
        job: Any,
        delivered: Any,
        run_id: Any = None,
        ti: Any = None,
        inlet_events: Any = None,
        outlet_events: Any = None,
    ) -> Any:
        """Hand the run's figures to CloudWatch and Prometheus; an alert says what is unusual about them."""
        if settings is None:
            raise AirflowSkipException("there are no settings, so there is nowhere to report to")
        before = [event.extra for event in inlet_events[RUNS] if event.extra.get("event") == "succeeded"]
        shares, alert = connect().report_run(
            settings, run_id, job, delivered, before, succeeded=not reasons(ti, run_id)
        )
        send(settings, alert)
        outlet_events[RUNS].extra = shares
        return shares

    start = read_settings()
    wait_for_streams = S3KeySensor(
        task_id="wait_for_streams",
        doc_md="Waits for a file in `streams/`; when none comes in time, the run goes on without.",
        bucket_key=start["arrivals"],
        wildcard_match=True,
        aws_conn_id=AWS_CONN_ID,
        poke_interval=POLL_SECONDS,
        timeout=WAIT_SECONDS,
        mode="poke" if DEFERRABLE else "reschedule",
        soft_fail=True,
        deferrable=DEFERRABLE,
    )
    claimed = claim_files(start["settings"])
    request = build_job(claimed)
    run_spark_app = SparkJobOperator.of_request(
        request,
        task_id="run_spark_app",
        doc_md="Starts the Spark application on EMR Serverless, or adopts this run's job that is alive.",
        aws_conn_id=AWS_CONN_ID,
        poll_seconds=POLL_SECONDS,
        deferrable=DEFERRABLE,
    )
    groups = prepare_delivery(claimed)
    delivered = verify_dynamodb(claimed, write_to_dynamodb.partial(run=claimed).expand(group=groups))
    marked = mark_as_processed(claimed, run_spark_app.output)
    archived = archive_files(claimed, run_spark_app.output)
    loaded = RedshiftLoadOperator.partial(
        task_id="load_redshift",
        doc_md="Loads one export into Redshift, in one transaction.",
        aws_conn_id=AWS_CONN_ID,
        poll_interval=max(1, POLL_SECONDS),
        deferrable=DEFERRABLE,
        max_active_tis_per_dagrun=1,
    ).expand_kwargs(prepare_redshift(claimed, archived))
    failed = mark_failed(start["settings"], run_spark_app.output)
    reported = report_run(start["settings"], run_spark_app.output, delivered)

    wait_for_streams >> claimed
    validate_inputs(claimed) >> request
    run_spark_app >> groups
    delivered >> marked >> archived >> loaded
    [archived, loaded] >> failed >> reported
    # A leaf beside report_run, whose success would otherwise be the run's.
    done = EmptyOperator(task_id="done", doc_md="Green only when all of the run is done.", trigger_rule=AFTER_JOB)
    [archived, loaded] >> done
    [archived, failed] >> clean_up(claimed, archived).as_teardown()
