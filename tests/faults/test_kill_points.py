"""Killed anywhere: at named points around every write, one after another, and at last all is as if nothing had been."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from tests.faults.conftest import Tell, Undisturbed
from tests.faults.harness import Death, Workplace
from tests.faults.lives import ENDING, FIRST_DAY, SECOND_DAY, SETTLING

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(3600)]
Finish = Callable[[int], list[str]]


def live(place: Workplace, command: Sequence[str], points: Sequence[str]) -> list[Death]:
    """Kill the application at each of these points, start it again as Airflow does, and let the last one end well."""
    deaths = [place.die(command, f"life.t{number}", point) for number, point in enumerate(points, start=1)]
    place.run_well(command, f"life.t{len(points) + 1}")
    return deaths


def test_first_day(place: Workplace, undisturbed: Undisturbed, finish: Finish, tell: Tell) -> None:
    command = ["run", "--input", str(undisturbed.sample.first)]
    deaths = live(place, command, FIRST_DAY)
    differences = finish(0)
    for death in deaths:
        tell(f"empty lake, {death.point}", death.note, equal=not differences)
    assert differences == []


def test_second_day(place: Workplace, undisturbed: Undisturbed, table_prefix: str, finish: Finish, tell: Tell) -> None:
    undisturbed.lake_after_first(place, table_prefix)
    command = ["run", "--input", str(undisturbed.sample.second)]
    deaths = live(place, command, SECOND_DAY)
    differences = finish(1)
    for death in deaths:
        tell(death.point, death.note, equal=not differences)
    assert differences == []


def test_end_of_a_run(
    place: Workplace, undisturbed: Undisturbed, table_prefix: str, finish: Finish, tell: Tell
) -> None:
    """Of what was refused there is still something to settle when all else is staged and published."""
    undisturbed.lake_after_first(place, table_prefix)
    deaths = live(place, ["run", "--input", str(undisturbed.sample.second)], [*SETTLING, *ENDING])
    differences = finish(1)
    for death in deaths:
        tell(death.point, death.note, equal=not differences)
    assert differences == []
