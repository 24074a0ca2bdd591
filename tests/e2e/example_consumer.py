"""# Another team's DAG: it starts when the KPIs of some days are complete in DynamoDB, and is told which days."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from airflow.sdk import DAG, Asset, task

KPIS = Asset("music_streaming_kpis_dynamodb")

with DAG(
    dag_id="charts_of_the_day",
    doc_md=__doc__,
    schedule=[KPIS],
    start_date=datetime(2024, 1, 1, tzinfo=UTC),
    catchup=False,
) as dag:

    @task
    def complete_days(triggering_asset_events: Any = None) -> list[str]:
        """Return the days whose KPIs have become complete, all deliveries since the last run together."""
        return sorted({date for event in triggering_asset_events[KPIS] for date in event.extra["dates"]})

    @task
    def draw_chart(date: str) -> str:
        """Stand for what a team does with the KPIs of a day."""
        return f"chart of {date}"

    draw_chart.expand(date=complete_days())
