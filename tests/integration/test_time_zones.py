"""One run where clocks change, worked out by hand; the machine is at the other end of the world."""

from __future__ import annotations

import os
import subprocess
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from tests.integration.application import Application, NewFile
from tests.integration.bad_files import HEADERS, rows
from tools.spark_submit import submit_command, submit_environment

pytestmark = [pytest.mark.integration, pytest.mark.long]

MODIFIED = datetime(2024, 12, 1, tzinfo=UTC)
LISTENS = (
    "1,t1,2024-02-29 00:00:00",
    "1,t1,2024-02-29 23:59:59",
    "1,t1,2024-03-31 01:59:59",
    "1,t1,2024-03-31 02:00:00",  # this hour is missing
    "1,t1,2024-03-31 02:59:59",
    "1,t1,2024-03-31 03:00:00",
    "1,t1,2024-10-26 23:59:59",
    "1,t1,2024-10-27 00:00:00",
    "1,t1,2024-10-27 02:00:00",  # this hour comes twice: the first counts
    "2,t1,2024-10-27 02:59:59",
    "1,t1,2024-10-27 03:00:00",
)


def _hour(day: str, hour: str, listens: int = 1, listeners: int = 1) -> tuple[object, ...]:
    start = datetime.fromisoformat(hour).replace(tzinfo=UTC)
    return date.fromisoformat(day), start, listens, listeners, (Decimal(1) / listens).quantize(Decimal("0.000001"))


def test_a_run_in_berlin_on_a_machine_in_auckland(spark: SparkSession, tmp_path: Path) -> None:
    zones = {"source_time_zone": "Europe/Berlin", "kpi_time_zone": "Europe/Berlin", "max_quarantined_share": "0.5"}
    application = Application(spark, tmp_path / "input", tmp_path / "lake", zones)
    for name, records in {
        "songs/a.csv": ["1,t1,Ann,Alpha,50,1000,pop"],
        "users/a.csv": ["1,Ann,2024-01-01", "2,Bob,2024-01-01"],
        "streams/a.csv": list(LISTENS),
    }.items():
        NewFile(name, rows(HEADERS[name.partition("/")[0]], records), MODIFIED).write(application.input)
    settings = [part for name, value in zones.items() for part in ("--set", f"{name}={value}")]
    arguments = ["run", "--input", str(application.input), "--lake", str(application.lake), *settings]
    environment = submit_environment(os.environ, short_run=True) | {"TZ": "Pacific/Auckland"}
    done = subprocess.run(submit_command(arguments), env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]

    columns = ("listen_date", "listen_hour", "listen_count", "unique_listeners", "track_diversity_index")
    assert sorted(application.rows("kpis/hourly", columns)) == [
        _hour("2024-02-29", "2024-02-28 23:00"),
        _hour("2024-02-29", "2024-02-29 22:00"),
        _hour("2024-03-31", "2024-03-31 00:00"),
        _hour("2024-03-31", "2024-03-31 01:00"),
        _hour("2024-10-26", "2024-10-26 21:00"),
        _hour("2024-10-27", "2024-10-26 22:00"),
        _hour("2024-10-27", "2024-10-27 00:00", listens=2, listeners=2),
        _hour("2024-10-27", "2024-10-27 02:00"),
    ]
    days = application.rows("kpis/daily_genre", ("listen_date", "listen_count", "unique_listeners"))
    assert sorted((str(day), listens, listeners) for day, listens, listeners in days) == [
        ("2024-02-29", 2, 1),
        ("2024-03-31", 2, 1),
        ("2024-10-26", 1, 1),
        ("2024-10-27", 4, 2),
    ]
    bad = application.rows("quarantine/records", ("line_number", "raw", "reasons"))
    assert sorted(bad) == [(line, LISTENS[line - 2], ["nonexistent_local_time"]) for line in (5, 6)]
    (file,) = (file for file in application.result()["files"] if file["dataset"] == "streams")
    assert (file["rows"], file["valid"], file["quarantined"]) == (11, 9, 2)
    assert file["modified_at"] == MODIFIED.isoformat()
