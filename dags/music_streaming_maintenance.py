"""# music_streaming_maintenance

Once a week: merges the small files of the lake's tables, and deletes what is past its retention.

**Is a rerun safe? Always.** No figure changes. It waits while a run of `music_streaming_pipeline` holds the lake, and
such a run waits for it.

## Tasks

| task | what it does | when it fails |
|---|---|---|
| `read_settings` | reads all settings, as the pipeline does | a setting is missing or wrong: its log names it |
| `build_job` | puts the Spark job's request together; skips the rest where there is no lake yet | S3 can't be reached |
| `compact_lake` | runs `compact` of the Spark application: small files, old versions of tables, delivered exports, quarantined rows, results of runs | the message has the reason and the place of the log; the next run does it |
| `delete_old_samples` | deletes the `.reason.json` of rejected files, which hold samples of bad rows; the files stay | the next run does it |

Each failure sends an alert.

## Settings

Those of `music_streaming_pipeline`; `quarantine_days` says how long bad rows and samples of them are kept (0: for ever).
`MUSIC_KPIS_DAG_MAINTENANCE_SCHEDULE` in the environment is a cron expression (default: Sundays at noon), or `manual`.
"""  # noqa: D415, E501

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from airflow.sdk import DAG, task
from dag_support import (
    AWS_CONN_ID,
    DEFAULT_ARGS,
    DEFERRABLE,
    PARAMS,
    POLL_SECONDS,
    AirflowSkipException,
    alert_of_task,
    connect,
    from_environment,
    lookups,
)
from spark_job_operator import SparkJobOperator

from kpi_pipeline.settings import load_pipeline_settings

SCHEDULE = from_environment("MAINTENANCE_SCHEDULE", "0 12 * * 0")
RUN_PREFIX = "maintenance-"  # tells its jobs from those of the pipeline's runs

with DAG(
    dag_id="music_streaming_maintenance",
    description="Music streaming KPIs: compaction and retention of the lake",
    doc_md=__doc__,
    schedule=None if SCHEDULE == "manual" else SCHEDULE,
    start_date=datetime(2024, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    tags=["music-streaming", "maintenance", "emr-serverless"],
    params=PARAMS,
    default_args={**DEFAULT_ARGS, "on_failure_callback": alert_of_task},
) as dag:

    @task(multiple_outputs=False)
    def read_settings(params: Any = None) -> dict[str, Any]:
        """Read all settings: params of the run, Variables, defaults."""
        return load_pipeline_settings(*lookups(params)).to_json()

    @task(multiple_outputs=True)
    def build_job(settings: dict[str, Any], run_id: Any = None) -> dict[str, Any]:
        """Put the Spark job's request together; skip the rest where there is no lake yet."""
        request = connect().build_maintenance_job(settings, f"{RUN_PREFIX}{run_id}")
        if request is None:
            raise AirflowSkipException("there is no lake yet")
        return dict(request)

    @task
    def delete_old_samples(settings: dict[str, Any]) -> int:
        """Delete samples of bad rows that lie beside rejected files."""
        return int(connect().delete_old_samples(settings))

    its = read_settings()
    request = build_job(its)
    compact_lake = SparkJobOperator.of_request(
        request,
        task_id="compact_lake",
        doc_md="Merges small files of the lake and deletes what is past its retention, on EMR Serverless.",
        aws_conn_id=AWS_CONN_ID,
        poll_seconds=POLL_SECONDS,
        deferrable=DEFERRABLE,
        run_prefix=RUN_PREFIX,
    )
    compact_lake >> delete_old_samples(its)
