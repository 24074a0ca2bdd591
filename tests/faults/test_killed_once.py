"""The quick part: the application is killed, and a run in this process takes up what it left."""

from __future__ import annotations

from pathlib import Path

import pytest
from mypy_boto3_dynamodb import DynamoDBClient
from pyspark.sql import SparkSession

from spark_app.cli import main
from tests.faults.conftest import Tell
from tests.faults.harness import SETTINGS, Plan, Workplace, end_of
from tests.faults.sample import Sample

pytestmark = pytest.mark.integration
# All files are judged, so that each is tried apart from the others next time. Then the third, of listens, is staged and
# not settled. (Recovery once forgot how many listens waited for their songs.)
POINTS = (Plan("ops/state.json open: inside"), Plan("ops/state.json settle: inside", nth=3))


def run_here(spark: SparkSession, source: Path, lake: Path, run_id: str) -> int:
    settings = [part for name, value in SETTINGS.items() for part in ("--set", f"{name}={value}")]
    command = ["run", "--input", str(source), "--lake", str(lake), "--run-id", run_id, *settings]
    return main(command, spark=spark)


def test_killed_and_taken_up(
    spark: SparkSession, place: Workplace, sample: Sample, dynamodb: DynamoDBClient, table_prefix: str, tell: Tell
) -> None:
    undisturbed = Workplace(place.folder / "undisturbed")
    undisturbed.folder.mkdir()
    for one, run_id, points in ((undisturbed, "undisturbed", ()), (place, "killed", POINTS)):
        for number, point in enumerate(points):
            one.break_off(["run", "--input", str(sample.first)], f"killed.t{number}", point)
        assert run_here(spark, sample.first, one.lake, run_id) == 0
        one.deliver(f"{table_prefix}{run_id}-")
    end = end_of(place, dynamodb, f"{table_prefix}killed-")
    differences = end.differences(end_of(undisturbed, dynamodb, f"{table_prefix}undisturbed-"))
    for point in POINTS:
        tell(f"empty lake, {point.point}", equal=not differences)
    assert differences == []
