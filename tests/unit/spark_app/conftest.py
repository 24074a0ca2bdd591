"""A lake that tests of single steps begin with."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from tests.unit.spark_app.ingest.small_run import SmallRun


@pytest.fixture(scope="session")
def references(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An input and a lake with a song and a user, to be copied: what costs most is staged once."""
    run = SmallRun(spark, tmp_path_factory.mktemp("references"))
    run.put_references()
    run.take_in()
    return run.folder


@pytest.fixture
def empty_lake(spark: SparkSession, tmp_path: Path) -> Iterator[SmallRun]:
    """A run that has a song and a user to stage, too."""
    run = SmallRun(spark, tmp_path)
    run.put_references()
    with run.frames:
        yield run


@pytest.fixture
def run(references: Path, spark: SparkSession, tmp_path: Path) -> Iterator[SmallRun]:
    """A run on a lake that has a song and a user."""
    run = SmallRun.on_copy(references, spark, tmp_path)
    with run.frames:
        yield run
