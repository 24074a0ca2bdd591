"""The DAG's tasks around the Spark job are killed at named points; the task is begun anew, and the rest goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.faults.bucket import RunOfDag
from tests.faults.conftest import Tell
from tests.faults.harness import Plan
from tests.faults.points import AFTER, BEFORE

pytestmark = pytest.mark.integration
NewRun = Callable[[], RunOfDag]

# In the order of a run. Each is killed before and after; with a number, at that one of several requests of the kind.
WRITES = [
    ("claim_files: CreateTable", 1),
    ("claim_files: PutItem songs/songs.csv processing", 1),
    ("claim_files: PutItem streams/bad.csv processing", 1),
    ("claim_files: PutObject intermediate manifest.json", 1),
    ("prepare_delivery: UpdateItem take", 1),
    ("write_to_dynamodb 0: UpdateItem take", 1),
    ("write_to_dynamodb 0: Query", 2),
    ("write_to_dynamodb 0: TransactWriteItems writing", 1),
    ("write_to_dynamodb 0: BatchWriteItem", 1),
    ("write_to_dynamodb 1: UpdateItem renew", 1),
    ("write_to_dynamodb 1: BatchWriteItem", 2),
    ("write_to_dynamodb 2: BatchWriteItem", 2),
    ("verify_dynamodb: UpdateItem take", 1),
    ("verify_dynamodb: Query", 3),
    ("verify_dynamodb: TransactWriteItems complete", 1),
    ("verify_dynamodb: PutObject lake delivered.json", 1),
    ("verify_dynamodb: UpdateItem release", 1),
    ("mark_as_processed: PutItem songs/songs.csv success", 1),
    ("mark_as_processed: PutItem streams/a.csv success", 1),
    ("mark_as_processed: PutItem streams/bad.csv rejected", 1),
    ("archive_files: CopyObject archive a.csv", 1),
    ("archive_files: DeleteObject raw a.csv", 1),
    ("archive_files: CopyObject rejected bad.csv", 1),
    ("archive_files: PutObject rejected reason", 1),
    ("archive_files: DeleteObject raw bad.csv", 1),
    ("clean_up: DeleteObjects", 1),
]
QUICK = [("write_to_dynamodb 1: BatchWriteItem", 2, AFTER), ("archive_files: DeleteObject raw a.csv", 1, BEFORE)]


@pytest.mark.sample
@pytest.mark.parametrize("point", [pytest.param(point, id=", ".join(map(str, point))) for point in QUICK])
def test_killed_task_is_begun_anew(
    new_run: NewRun, undisturbed_tasks: dict[str, Any], point: tuple[str, int, str], tell: Tell
) -> None:
    name, nth, when = point
    run = new_run()
    run.die(Plan(f"{name}: {when}", nth=nth))
    run.end_well()
    end = run.end()
    tell(f"{name}: {when}", f"number {nth}" if nth > 1 else "", equal=end == undisturbed_tasks)
    assert end == undisturbed_tasks


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_killed_at_one_point_after_another(new_run: NewRun, undisturbed_tasks: dict[str, Any], tell: Tell) -> None:
    """One run of the DAG, from death to death; a batch that was written is not again, so the next one is the first."""
    run = new_run()
    points = [
        (name, 1 if when == AFTER and name.endswith("BatchWriteItem") else nth, when)
        for name, nth in WRITES
        for when in (BEFORE, AFTER)
    ]
    for name, nth, when in points:
        run.die(Plan(f"{name}: {when}", nth=nth))
    run.end_well()
    end = run.end()
    for name, nth, when in points:
        tell(f"{name}: {when}", f"number {nth}" if nth > 1 else "", equal=end == undisturbed_tasks)
    assert end == undisturbed_tasks
