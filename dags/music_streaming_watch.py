"""# music_streaming_watch

Watches `music_streaming_pipeline` from outside, every hour: an alert goes out when no run has succeeded for
`alert_success_hours`, or a run takes longer than `alert_late_minutes`; once when that begins, and then once a day.

**Is a rerun safe? Always:** it only reads and sends.

## Tasks

| task | what it does | when it fails |
|---|---|---|
| `check` | reads the events of the asset `music_streaming_runs`, sends alerts | no channel took an alert: see its log |

## Settings

Those of the pipeline, from the same Variables; the environment variables `MUSIC_KPIS_DAG_OWNER`, `…_RETRIES` and
`…_RETRY_SECONDS` count here too.
"""  # noqa: D415

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import DAG, task
from dag_support import DEFAULT_ARGS, PARAMS, RUNS, lookups, send

from kpi_pipeline.alerts.overdue import overdue
from kpi_pipeline.settings import load_alert_settings

with DAG(
    dag_id="music_streaming_watch",
    description="Alerts when the music streaming KPIs are late",
    doc_md=__doc__,
    schedule=timedelta(hours=1),
    start_date=datetime(2024, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    tags=["music-streaming", "monitoring"],
    params=PARAMS,
    default_args=DEFAULT_ARGS,
) as dag:

    @task(inlets=[RUNS])
    def check(params: Any = None, inlet_events: Any = None, prev_start_date_success: Any = None) -> list[str]:
        """Send an alert of each thing that is overdue since the last look, or for one more day."""
        settings = load_alert_settings(*lookups(params))
        events = [(event.timestamp, event.extra) for event in inlet_events[RUNS]]
        alerts = overdue(settings, events, datetime.now(UTC), prev_start_date_success or None)  # a proxy of None too
        for alert in alerts:
            send(settings, alert)
        return [alert.kind for alert in alerts]

    check()
