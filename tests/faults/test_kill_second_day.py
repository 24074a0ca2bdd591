"""As on the first day, but on a lake that has data: a corrected file, a late, a refused one, a song that changes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.conftest import Tell, Undisturbed
from tests.faults.harness import Workplace
from tests.faults.lives import SECOND_DAY

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(3600)]
Finish = Callable[[int], list[str]]


def test_second_day(place: Workplace, undisturbed: Undisturbed, table_prefix: str, finish: Finish, tell: Tell) -> None:
    undisturbed.lake_after_first(place, table_prefix)
    breaks = place.live(["run", "--input", str(undisturbed.sample.second)], SECOND_DAY)
    differences = finish(1)
    for one in breaks:
        tell(one.point, one.note, equal=not differences)
    assert differences == []
