"""When the clocks of a zone are changed, and whether Java (Spark) and Python know the same of it."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

from pyspark import SparkContext

from spark_app.errors import UsageError
from spark_app.spark.session import set_environment

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


def check_time_zones(zones: Iterable[str]) -> None:
    """Refuse zones of which Java (which reads and cuts the times) and Python (which counts the hours) differ.

    Both bring rules of their own along, of some release of the IANA data; where one is older, hours would be wrong.
    Java is started for it, where it doesn't run yet; UTC needs no look.

    Raises:
        UsageError: names the zone, the first instant from 2000 on at which both differ, and what to update.
    """
    names = sorted(set(zones) - {"UTC"})
    if not names:
        return
    set_environment()
    SparkContext._ensure_initialized()  # noqa: SLF001 (pyspark's own way to Java before there is a session)
    jvm: Any = SparkContext._jvm  # noqa: SLF001
    for zone in names:
        offsets = _java_offsets(jvm, zone)
        if offsets is None:
            raise UsageError(f"time zone {zone}: Java does not know it, Python does; {_what_to_update(jvm)}")
        known = _python_offsets(zone)
        if offsets != known:
            first = min(set(offsets.items()) ^ set(known.items()))[0]
            raise UsageError(
                f"time zone {zone}: Java and Python have other rules for it, from "
                f"{datetime.fromtimestamp(first, UTC):%Y-%m-%dT%H:%M:%SZ} on; {_what_to_update(jvm)}"
            )


def _java_offsets(jvm: Any, zone: str) -> dict[int, int] | None:
    """Offsets to UTC in seconds by the instant from which on they hold (seconds since 1970), or None if unknown."""
    if not jvm.java.time.ZoneId.getAvailableZoneIds().contains(zone):
        return None
    rules, instant = jvm.java.time.ZoneId.of(zone).getRules(), jvm.java.time.Instant
    end = int(datetime(_LAST_YEAR + 1, 1, 1, tzinfo=UTC).timestamp())
    moment = instant.ofEpochSecond(int(datetime(_FIRST_YEAR, 1, 1, tzinfo=UTC).timestamp()))
    offsets = {moment.getEpochSecond(): rules.getOffset(moment).getTotalSeconds()}
    while (change := rules.nextTransition(moment)) is not None and change.toEpochSecond() < end:
        moment = change.getInstant()
        offsets[moment.getEpochSecond()] = change.getOffsetAfter().getTotalSeconds()
    return offsets


def _python_offsets(zone: str) -> dict[int, int]:
    moments = [datetime(_FIRST_YEAR, 1, 1, tzinfo=UTC), *clock_changes(zone, _FIRST_YEAR, _LAST_YEAR)]
    there = ZoneInfo(zone)
    offsets = ((moment, moment.astimezone(there).utcoffset() or timedelta()) for moment in moments)
    return {int(moment.timestamp()): int(offset.total_seconds()) for moment, offset in offsets}


def _what_to_update(jvm: Any) -> str:
    java = jvm.java.time.zone.ZoneRulesProvider.getVersions("UTC").lastKey()
    python = importlib.import_module("tzdata").IANA_VERSION
    return (
        f"update the older one: Java {jvm.java.lang.System.getProperty('java.version')} has the IANA data of {java}, "
        f"the Python package tzdata those of {python} (the operating system's, where it has them, come first)"
    )
