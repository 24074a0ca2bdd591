"""What the tests of the delivery share: small exports, and what DynamoDB holds in the end."""

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from boto3.dynamodb.types import TypeDeserializer
from mypy_boto3_dynamodb import DynamoDBClient

from kpi_common.files import open_lake
from kpi_pipeline.export.delivery import DeliveryResult, deliver
from kpi_pipeline.settings import load_delivery_settings
from tests.support.export_files import DAILY, HOURLY, Items

STATUS = "KPIStatus"
ROOT = Path(__file__).resolve().parents[2]
# Quick waits; a lease of a second, so that the lease of a killed writer is soon over.
QUICK: dict[str, Any] = {
    "first_wait_seconds": 0.01,
    "longest_wait_seconds": 0.2,
    "lease_seconds": 1,
    "wait_seconds": 15,
}


def day(date: str, genres: Iterable[str] = ("pop", "sertanejo", "r-n-b"), plays: int = 10) -> Items:
    """Return a day's items: one a genre and one for noon."""
    daily = [
        {
            "date": date,
            "genre": genre,
            "listen_count": plays + number,
            "avg_track_duration": Decimal("201500.125"),
            "most_popular_track": 'Ça "ira", 東京 🎵',
            "top_3_song_names": ["a, b", "ñ"],
        }
        for number, genre in enumerate(genres)
    ]
    return {DAILY: daily, HOURLY: [{"date": date, "hour": f"{date}T12:00:00Z", "listen_count": plays}] if daily else []}


def days(count: int, genres: int = 3, plays: int = 10) -> dict[str, Items]:
    """Return so many days of June 2024."""
    names = [f"genre-{number:03d}" for number in range(genres)]
    return {date: day(date, names, plays) for date in (f"2024-06-{number:02d}" for number in range(1, count + 1))}


def run_delivery(
    lake: Path, prefix: str, run_id: str = "latest", endpoint_url: str | None = None, **settings: Any
) -> DeliveryResult:
    """Deliver in this process."""
    adopt_lake = settings.pop("adopt_lake", False)
    loaded = load_delivery_settings(prefix=prefix, **{**QUICK, **settings})
    return deliver(open_lake(str(lake)), run_id, loaded, endpoint_url, adopt_lake=adopt_lake)


def start_command(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Start `python -m kpi_pipeline` as a process of its own."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "dags"), **environment}
    command = [sys.executable, "-m", "kpi_pipeline", *arguments]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run_command(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """Run `python -m kpi_pipeline` and return exit code, standard output and standard error."""
    process = start_command(*arguments, **environment)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def scan(client: DynamoDBClient, table: str) -> list[dict[str, Any]]:
    """Return all items of a table in Python values, in the order of their keys."""
    read = TypeDeserializer().deserialize
    pages = client.get_paginator("scan").paginate(TableName=table, ConsistentRead=True)
    items = [{name: read(value) for name, value in item.items()} for page in pages for item in page["Items"]]
    return sorted(items, key=lambda item: [str(item.get(key)) for key in ("date", "genre", "hour")])


def kpis(client: DynamoDBClient, prefix: str) -> dict[str, list[dict[str, Any]]]:
    """Return all items of the two KPI tables."""
    return {name: scan(client, prefix + name) for name in (DAILY, HOURLY)}


def expected(*exports: Mapping[str, Items]) -> dict[str, list[dict[str, Any]]]:
    """Return what must be there after exports were delivered in this order."""
    state: dict[str, Items] = {}
    for export in exports:
        state.update(export)
    return {name: _in_order(state[date].get(name, []) for date in sorted(state)) for name in (DAILY, HOURLY)}


def _in_order(items: Iterable[Iterable[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    flat = [dict(item) for some in items for item in some]
    return sorted(flat, key=lambda item: [str(item.get(key)) for key in ("date", "genre", "hour")])


def statuses(client: DynamoDBClient, prefix: str) -> dict[str, dict[str, Any]]:
    """Return the status items by date, without the control item."""
    return {item["date"]: item for item in scan(client, prefix + STATUS) if not item["date"].startswith("#")}
