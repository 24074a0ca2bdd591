"""Dates are due when their listens changed, or a song or user of one of them, or when a KPI table is new."""

from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from kpi_common.contracts import Dataset
from spark_app.config.settings import load_settings
from spark_app.kpis import all_kpis
from spark_app.lake.tables import Lake
from spark_app.log import Steps
from spark_app.publish.dirty_dates import find_dirty_dates, staged_versions
from spark_app.run.context import Context
from spark_app.run.result import RunResult
from spark_app.run.state import Progress
from tests.unit.spark_app.builders import STAGED_SONGS

USERS = "file_modified_at timestamp, user_id bigint, user_age bigint, user_country string, created_at string"
FIRST, SECOND = date(2024, 6, 25), date(2024, 6, 26)
OLD = datetime(2024, 6, 1)


@pytest.fixture
def context(spark: SparkSession, tmp_path: Path) -> Context:
    """A lake in which user 1 heard track a on the first day, and user 2 track b on the second; all is published."""
    lake = Lake(str(tmp_path / "lake"))
    result = RunResult("one", "run", lake.uri, None, datetime.now(UTC))
    context = Context(lambda: spark, load_settings("local"), lake, "one", result, Steps())
    listens = spark.createDataFrame(
        [(1, 1, "a", FIRST), (1, 2, "b", SECOND)], "file_id int, user_id bigint, track_id string, listen_date date"
    )
    lake.staged(Dataset.STREAMS).replace(listens.coalesce(1), None, {}, ("listen_date",))
    stage_songs(context, "First", "First")
    stage_users(context, "Peru", "Peru")
    for kpi in all_kpis():
        lake.kpi(kpi.name).replace(listens.select("listen_date", "user_id").coalesce(1), None, {}, ("listen_date",))
    return context


def stage_songs(context: Context, *albums: str) -> None:
    rows = [
        (OLD, "songs.csv", track, 1, "pop", "n", "A", album, 1, 1) for track, album in zip("ab", albums, strict=True)
    ]
    frame = context.spark.createDataFrame(rows, STAGED_SONGS).coalesce(1)
    context.lake.staged(Dataset.SONGS).replace(frame, None, {})


def stage_users(context: Context, *countries: str) -> None:
    rows = [(OLD, user, None, country, None) for user, country in enumerate(countries, 1)]
    context.lake.staged(Dataset.USERS).replace(context.spark.createDataFrame(rows, USERS).coalesce(1), None, {})


def due(context: Context, done: Progress) -> set[str]:
    return set(find_dirty_dates(context, done, staged_versions(context)).dates)


def test_dates_of_listens_whose_album_or_country_changed_are_due(context: Context) -> None:
    done = staged_versions(context)
    assert due(context, done) == set()
    stage_songs(context, "First", "Second")
    assert due(context, done) == {"2024-06-26"}
    done = staged_versions(context)
    stage_users(context, "Chile", "Peru")
    assert due(context, done) == {"2024-06-25"}


def test_the_same_dates_are_due_of_the_files_alone_that_changed(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As beside very many songs: file 2 takes track b over, then is withdrawn."""
    table, at = context.lake.staged(Dataset.SONGS), {1: OLD, 2: datetime(2024, 6, 2)}

    def stage(file_id: int, tracks: str, album: str, **metadata: object) -> None:
        rows = [(at[file_id], f"{file_id}.csv", track, 1, "pop", "n", "A", album, 1, 1, file_id) for track in tracks]
        frame = context.spark.createDataFrame(rows, f"{STAGED_SONGS}, file_id int").coalesce(1)
        table.replace(frame, None if file_id == 1 else "file_id = 2", metadata)

    monkeypatch.setattr(type(context.lake), "many_references", lambda *_, **__: True)
    stage(1, "ab", "First")  # the commit does not say what it changed
    done = staged_versions(context)
    for tracks in ("b", ""):
        stage(2, tracks, "Second", files={"2": 1})
        assert due(context, done) == {"2024-06-26"}
        done = staged_versions(context)


def test_all_dates_are_due_where_a_kpi_table_is_new(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    done = staged_versions(context)
    new = replace(all_kpis()[0], name="new")
    monkeypatch.setattr("spark_app.publish.dirty_dates.all_kpis", lambda: (*all_kpis(), new))
    assert due(context, done) == {"2024-06-25", "2024-06-26"}
