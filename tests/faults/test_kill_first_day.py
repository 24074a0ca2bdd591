"""Killed at named points around every write, or told that a write failed which was done; at last all is in order."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.conftest import Tell, Undisturbed
from tests.faults.harness import Workplace
from tests.faults.lives import FIRST_DAY

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(3600)]
Finish = Callable[[int], list[str]]


def test_first_day(place: Workplace, undisturbed: Undisturbed, finish: Finish, tell: Tell) -> None:
    breaks = place.live(["run", "--input", str(undisturbed.sample.first)], FIRST_DAY)
    differences = finish(0)
    for one in breaks:
        tell(f"empty lake, {one.point}", one.note, equal=not differences)
    assert differences == []
