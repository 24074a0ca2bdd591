"""Asleep at a point for longer than its lease, while another run corrects, exports and is delivered; then it wakes up.

Nothing that it still writes may count: neither in the lake, nor as the newest export.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from mypy_boto3_dynamodb import DynamoDBClient
from pyspark.sql import SparkSession

from kpi_common.errors import AppError
from spark_app.cli import main
from tests.faults.conftest import Tell
from tests.faults.content import delivered_items
from tests.faults.harness import FAILED, SETTINGS, End, Plan, RunsInOneProcess, Workplace, end_of
from tests.faults.sample import DAY_THREE, Sample
from tests.integration.delivery_helpers import run_delivery

pytestmark = pytest.mark.integration
# The dates to export are chosen, and no later look at the lease will come before the first write.
IN_EVERY_RUN = "export_seq.json: before"
SHARDS = 8
LEASE_SECONDS = 2


@dataclass(frozen=True)
class Nights:
    """The lake of the first day; what the sleeper takes in, what its successor does, and where that leads."""

    spark: SparkSession
    after_first: Path
    second: Path
    corrected: Path
    client: DynamoDBClient
    prefix: str
    undisturbed: End

    def run(self, lake: Path, run_id: str) -> int:
        return run_here(self.spark, self.corrected, lake, run_id)


def run_here(spark: SparkSession, source: Path, lake: Path, run_id: str) -> int:
    settings = [part for name, value in SETTINGS.items() for part in ("--set", f"{name}={value}")]
    command = ["run", "--input", str(source), "--lake", str(lake), "--run-id", run_id, *settings]
    return main(command, spark=spark)


@pytest.fixture
def nights(spark: SparkSession, sample: Sample, tmp_path: Path, dynamodb: DynamoDBClient, table_prefix: str) -> Nights:
    """Once for all points of a test."""
    corrected = tmp_path / "corrected"
    shutil.copytree(sample.second, corrected)
    changed = corrected / "streams" / "new.csv"
    modified = changed.stat().st_mtime + 3600
    with changed.open("a") as stream:
        stream.writelines(f"{user},t1,{DAY_THREE} 10:00:0{user}\n" for user in range(1, 8))
    os.utime(changed, (modified, modified))
    place = Workplace(tmp_path / "undisturbed")
    place.folder.mkdir()
    assert run_here(spark, sample.first, place.lake, "first") == 0
    place.deliver(f"{table_prefix}undisturbed-")
    shutil.copytree(place.lake, tmp_path / "after-first")
    assert run_here(spark, corrected, place.lake, "corrected") == 0
    place.deliver(f"{table_prefix}undisturbed-")
    end = end_of(place, dynamodb, f"{table_prefix}undisturbed-")
    return Nights(spark, tmp_path / "after-first", sample.second, corrected, dynamodb, table_prefix, end)


@pytest.fixture
def runs(place: Workplace) -> Iterator[RunsInOneProcess]:
    """The process that sleeps: once for all points of a test."""
    process = place.start_for_many_runs()
    yield process
    os.killpg(process.popen.pid, signal.SIGKILL)
    process.popen.wait()


def sleep_at(nights: Nights, place: Workplace, point: str, runs: RunsInOneProcess) -> list[str]:
    """Live through it, the sleeper being a run in a process of `runs`, and return what is wrong in the end."""
    prefix = f"{nights.prefix}{place.folder.name}-"
    shutil.copytree(nights.after_first, place.lake)
    place.deliver(prefix)
    command = ["run", "--input", str(nights.second)]
    sleeper = runs.start(place, command, "sleeper", Plan(point, "stop"), lock_lease_seconds=LEASE_SECONDS)
    sleeper.wait_until_asleep(point)
    code = nights.run(place.lake, "successor")
    if code == FAILED and is_writing(place.lake):  # a local file can't be written by two: so its writer goes on
        sleeper.signal(signal.SIGCONT)
        runs.ended(sleeper)
        code = nights.run(place.lake, "second-successor")
    assert code == 0
    place.deliver(prefix)
    good = delivered_items(nights.client, prefix)
    sleeper.signal(signal.SIGCONT)
    code = runs.ended(sleeper)
    wrong = [] if code in {0, FAILED} else [f"ended with {code}"]
    if good != {name: nights.undisturbed.items[name] for name in good}:
        wrong.append("the successor did not deliver all")
    if code == 0:  # its task of the DAG would deliver it now
        try:
            run_delivery(place.lake, prefix, "sleeper")
        except AppError as error:
            wrong += [] if "made no export" in str(error) else [str(error)]
    place.deliver(prefix)
    if delivered_items(nights.client, prefix) != good:
        wrong.append("old figures were delivered")
    if nights.run(place.lake, "afterwards") != 0:
        wrong.append("the next run failed")
    place.deliver(prefix)
    return wrong + end_of(place, nights.client, prefix).differences(nights.undisturbed)


def is_writing(lake: Path) -> bool:
    """Whether the successor failed as the sleeper is amid writing a file, be it by chance the lock that it renews."""
    error = json.loads((lake / "runs" / "successor" / "result.json").read_text("utf-8"))["error"]
    return "another process has been writing it" in error["message"]


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_asleep_after_the_dates_to_export_were_chosen(
    nights: Nights, runs: RunsInOneProcess, place: Workplace, tell: Tell
) -> None:
    wrong = sleep_at(nights, place, IN_EVERY_RUN, runs)
    tell(f"asleep, {IN_EVERY_RUN}", equal=not wrong)
    assert wrong == []


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("shard", range(SHARDS))
def test_asleep_at_every_point(
    nights: Nights, runs: RunsInOneProcess, place: Workplace, tell: Tell, shard: int
) -> None:
    """The points are those that an undisturbed run passes, and the midst of each of its commits."""
    rehearsal = Workplace(place.folder / "rehearsal")
    rehearsal.folder.mkdir()
    shutil.copytree(nights.after_first, rehearsal.lake)
    run = runs.start(rehearsal, ["run", "--input", str(nights.second)], "rehearsal", Plan("none"))
    assert runs.ended(run) == 0
    passed = run.trace
    inside = {f"{point.removesuffix(': before')}: inside" for point in passed if commits(point)}
    points = sorted(point for point in {*passed, *inside} if not is_like_another(point))
    wrong: dict[str, list[str]] = {}
    for number, point in list(enumerate(points))[shard::SHARDS]:
        one = Workplace(place.folder / f"sleep-{number}")
        one.folder.mkdir()
        wrong[point] = sleep_at(nights, one, point, runs)
        tell(f"asleep, {point}", equal=not wrong[point])
        shutil.rmtree(one.folder)
    assert wrong
    assert not {point: found for point, found in wrong.items() if found}


def commits(point: str) -> bool:
    """Whether this is the beginning of a commit of a Delta table."""
    return point.startswith(("staged/", "quarantine/", "kpis/")) and point.endswith(": before")


def is_like_another(point: str) -> bool:
    """Whether this is a part of an export that is neither its first nor its last one."""
    ends = ("export DailyGenreKPIs part-00000", "export TopSongsPerGenre part-00002")
    return " part-" in point and not point.startswith(ends)
