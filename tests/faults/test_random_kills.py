"""Killed at random: the seed chooses the moment. 50 in all, 5 of the application, 45 of the DAG's tasks."""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from tests.faults.bucket import RunOfDag
from tests.faults.conftest import Tell, Undisturbed
from tests.faults.harness import KILLED, Plan, Workplace

pytestmark = pytest.mark.integration
KILLS_A_LIFE = 5
LIVES = 1
LIVES_OF_TASKS = 9
# A run of the tasks that nobody disturbs has 105 points, so all five are killed.
MOST_POINTS_A_KILL = 20


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "seed", [pytest.param(n, marks=[pytest.mark.long] if n else []) for n in range(LIVES_OF_TASKS)]
)
def test_tasks(new_run: Callable[[], RunOfDag], undisturbed_tasks: dict[str, Any], seed: int, tell: Tell) -> None:
    """One run of the DAG, killed again and again up to 15 ms after a point that the seed chooses."""
    random = Random(seed)
    run = new_run()
    plans = [
        Plan(total=random.randint(1, MOST_POINTS_A_KILL), delay=random.choice([0, 0.001, 0.005, 0.015]))
        for _ in range(KILLS_A_LIFE)
    ]
    last = [run.die(plan).trace[-1] for plan in plans]
    run.end_well()
    end = run.end()
    for number, point in enumerate(last):
        tell(f"tasks, seed {seed}, {number}", f"last: {point}", equal=end == undisturbed_tasks)
    assert end == undisturbed_tasks


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(LIVES))
def test_application(
    place: Workplace,
    undisturbed: Undisturbed,
    table_prefix: str,
    finish: Callable[[int], list[str]],
    seed: int,
    tell: Tell,
) -> None:
    """A lake whose runs are killed one after another, at any moment that an undisturbed run has."""
    random = Random(seed)
    undisturbed.lake_after_first(place, table_prefix)
    command = ["run", "--input", str(undisturbed.sample.second)]
    last: list[str] = []
    longest = 0.8 * undisturbed.seconds(1)
    while len(last) < KILLS_A_LIFE:
        process = place.start(command, f"life.t{len(last)}", Plan("none"))
        time.sleep(random.uniform(1, longest))
        process.kill()
        if process.popen.returncode == KILLED:
            last.append(process.trace[-1] if process.trace else "starting")
        else:  # it was quicker; from now on there is nothing new, and that takes less time
            assert process.popen.returncode == 0, process.text[-4000:]
            longest = 0.2 * undisturbed.seconds(1)
    place.run_well(command, "life.end")
    differences = finish(1)
    for number, point in enumerate(last):
        tell(f"application, seed {seed}, {number}", f"last: {point}", equal=not differences)
    assert differences == []
