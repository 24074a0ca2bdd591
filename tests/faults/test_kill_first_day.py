"""Killed at named points around every write, one after another; at last all is as if nothing had been."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.conftest import Tell, Undisturbed
from tests.faults.harness import Workplace
from tests.faults.lives import FIRST_DAY

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(3600)]
Finish = Callable[[int], list[str]]


def test_first_day(place: Workplace, undisturbed: Undisturbed, finish: Finish, tell: Tell) -> None:
    deaths = place.live(["run", "--input", str(undisturbed.sample.first)], FIRST_DAY)
    differences = finish(0)
    for death in deaths:
        tell(f"empty lake, {death.point}", death.note, equal=not differences)
    assert differences == []
