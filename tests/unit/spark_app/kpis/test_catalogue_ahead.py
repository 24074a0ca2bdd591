"""Songs are numbered beside other work: at the version that was asked for, once, and what goes wrong is told."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from pyspark.errors import AnalysisException
from pyspark.sql import SparkSession

from spark_app.config.contracts import Dataset
from spark_app.config.settings import load_settings
from spark_app.kpis.catalogue_ahead import CatalogueAhead
from spark_app.lake.tables import Lake
from spark_app.log import Steps
from spark_app.run.context import Context
from spark_app.run.result import RunResult
from tests.unit.spark_app.builders import STAGED_SONGS


@pytest.fixture
def context(spark: SparkSession, tmp_path: Path) -> Context:
    lake = str(tmp_path / "lake")
    result = RunResult("one", "run", lake, None, datetime.now(UTC))
    return Context(lambda: spark, load_settings("local"), Lake(lake), "one", result, Steps())


def stage(context: Context, *tracks: str) -> int:
    """Let the staged songs be these tracks; return the version."""
    rows = [(datetime(2024, 6, 1), "songs/a.csv", track, 1, "pop", track, "A", 1, 1000) for track in tracks]
    frame = context.spark.createDataFrame(rows, STAGED_SONGS).coalesce(1)
    return context.lake.staged(Dataset.SONGS).replace(frame, None, {})


def numbers(catalogues: CatalogueAhead, version: int) -> list[tuple[str, int]]:
    tracks = catalogues.at(version).tracks
    return sorted((row["track_id"], row["track_no"]) for row in tracks.select("track_id", "track_no").collect())


def test_what_was_begun_is_that_version_and_another_one_is_made_when_it_is_asked_for(context: Context) -> None:
    catalogues = CatalogueAhead(context)
    first = stage(context, "b", "a")
    begun = catalogues.begin(first)
    second = stage(context, "b", "a", "c")
    assert catalogues.begin(first) is begun
    assert numbers(catalogues, first) == [("a", 1), ("b", 2)]
    assert numbers(catalogues, second) == [("a", 1), ("b", 2), ("c", 3)]


def test_what_goes_wrong_is_raised_where_the_catalogue_is_needed(context: Context) -> None:
    catalogues = CatalogueAhead(context)
    missing = stage(context, "a") + 1
    catalogues.begin(missing)
    with pytest.raises(AnalysisException):
        catalogues.at(missing)
