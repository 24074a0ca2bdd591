"""When the clocks of a zone are changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

_FIRST_YEAR, _LAST_YEAR = 2000, 2060
_SECOND = timedelta(seconds=1)
_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
_HALF_HOUR = 30


@dataclass(frozen=True)
class Change:
    """From `instant` on (seconds since 1970) the clock goes on from another time; `date` is then the zone's date."""

    instant: int
    date: date


@dataclass(frozen=True)
class Slots:
    """Equal parts of a day of which each holds the beginning of one hour at most: their length and number."""

    seconds: int
    count: int


@lru_cache
def slots_of_a_day(zone: str) -> Slots:
    """Cut the longest day of a zone into slots: hours, or half hours where the clock isn't changed by whole hours."""
    there = ZoneInfo(zone)
    longest, whole = _DAY, True
    for change in clock_changes(zone, _FIRST_YEAR, _LAST_YEAR):
        clock, before = change.astimezone(there), (change - _SECOND).astimezone(there)
        shift = (clock.utcoffset() or timedelta()) - (before.utcoffset() or timedelta())
        longest = max(longest, _DAY - shift)
        whole = whole and shift % _HOUR == timedelta() and (clock.minute, clock.second) == (0, 0)
    slot = _HOUR if whole else _HOUR / 2
    return Slots(int(slot.total_seconds()), -(-longest // slot))


@lru_cache
def changes_within_an_hour(zone: str) -> tuple[Change, ...]:
    """Return the changes of a zone's clock that begin an hour of their own although it doesn't show a full hour.

    Few zones have any. Where the clock skips less than the first half of an hour (at 00:01, in Gaza and Newfoundland
    before 2012), what is left of it goes with the minutes before.
    """
    there = ZoneInfo(zone)
    found = []
    for change in clock_changes(zone, _FIRST_YEAR, _LAST_YEAR):
        clock, before = change.astimezone(there), (change - _SECOND).astimezone(there)
        forward = clock.replace(tzinfo=None) > before.replace(tzinfo=None)
        if (clock.minute, clock.second) != (0, 0) and not (forward and clock.minute < _HALF_HOUR):
            found.append(Change(int(change.timestamp()), clock.date()))
    return tuple(found)


def clock_changes(zone: str, first_year: int, last_year: int) -> Iterator[datetime]:
    """Yield the instants (UTC, to the second) from which on the zone has another offset than before."""
    there = ZoneInfo(zone)
    day = datetime(first_year, 1, 1, tzinfo=UTC)
    while day.year <= last_year:
        before, after = day, day + timedelta(days=1)
        if before.astimezone(there).utcoffset() != after.astimezone(there).utcoffset():
            while after - before > _SECOND:
                middle = before + (after - before) // 2
                middle = middle.replace(microsecond=0)
                same = middle.astimezone(there).utcoffset() == before.astimezone(there).utcoffset()
                before, after = (middle, after) if same else (before, middle)
            yield after
        day += timedelta(days=1)
