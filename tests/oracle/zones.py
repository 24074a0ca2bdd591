"""Time zones, in microseconds since 1970 so that no day of the calendar overflows."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

EPOCH = datetime(1970, 1, 1)
SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE


def micros(moment: datetime) -> int:
    """Of an aware or, as if it were UTC, a naive moment."""
    naive = moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
    return (naive - EPOCH) // timedelta(microseconds=1)


def to_instant(local: datetime, zone: ZoneInfo) -> int:
    """The instant of a local time; a doubled hour takes the earlier offset."""
    return micros(local) - _micros(zone.utcoffset(local.replace(fold=0)))


def is_skipped(local: datetime, zone: ZoneInfo) -> bool:
    """True in the hour that the clock leaves out: the offset rises there, so fold 0 has the smaller one."""
    return _micros(zone.utcoffset(local.replace(fold=0))) < _micros(zone.utcoffset(local.replace(fold=1)))


def local_date(instant: int, zone: ZoneInfo) -> date:
    return _local(instant + _offset(instant // SECOND, zone)).date()


def hour_start(instant: int, zone: ZoneInfo) -> int:
    """The instant at which the zone's hour that holds `instant` began.

    A change of the clock within the hour cuts it: what follows the change begins at the change.
    """
    offset = _offset(instant // SECOND, zone)
    start = (instant + offset) // HOUR * HOUR - offset
    if _offset(start // SECOND, zone) == offset:
        return start
    before, after = start // SECOND, instant // SECOND
    while after - before > 1:
        middle = (before + after) // 2
        if _offset(middle, zone) == offset:
            after = middle
        else:
            before = middle
    return after * SECOND


@lru_cache(maxsize=200_000)
def _offset(second: int, zone: ZoneInfo) -> int:
    return _micros((EPOCH + timedelta(seconds=second)).replace(tzinfo=UTC).astimezone(zone).utcoffset())


def _local(shifted: int) -> datetime:
    return EPOCH + timedelta(microseconds=shifted)


def _micros(offset: timedelta | None) -> int:
    if offset is None:
        raise ValueError("the zone gives no offset")
    return offset // timedelta(microseconds=1)
