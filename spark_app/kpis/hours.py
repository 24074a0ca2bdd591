"""Hours of a zone's day: when an hour begins, and its number within its date."""

from __future__ import annotations

from pyspark.sql import Column
from pyspark.sql import functions as F

from spark_app.spark.columns import instant_to_local, local_to_instant
from spark_app.spark.time_zones import changes_within_an_hour, slots_of_a_day

SECONDS_PER_HOUR = 3600
_MICROS = 1_000_000


def hour_start(instant: Column, zone: str) -> Column:
    """The instant at which the instant's hour of the zone began.

    A doubled hour gives two hours. Where the clock is changed within an hour, an hour begins with the change.
    """
    micros = F.unix_micros(instant)
    into_hour = F.pmod(F.unix_micros(instant_to_local(instant, zone)), F.lit(SECONDS_PER_HOUR * _MICROS))
    return F.timestamp_micros(_not_before_a_change(micros - into_hour, micros, zone))


def hours_per_day(zone: str) -> int:
    """How many numbers `hour_number` may give in a date: one per hour, or per half hour where clocks change by that."""
    return slots_of_a_day(zone).count


def hour_number(zone: str) -> Column:
    """The number of `listen_hour` within `listen_date`, from 0; no two hours of a date have the same."""
    seconds = F.unix_seconds("listen_hour") - _day_start(zone)
    return F.call_function("div", seconds, F.lit(slots_of_a_day(zone).seconds)).cast("int")


def hour_of_number(number: Column, zone: str) -> Column:
    """The `listen_hour` that has this number within `listen_date`."""
    length = slots_of_a_day(zone).seconds
    start = (_day_start(zone) + number * F.lit(length)) * F.lit(_MICROS)
    within = start + F.lit(length * _MICROS - 1)
    return F.timestamp_micros(_not_before_a_change(start, within, zone, F.col("listen_date")))


def _day_start(zone: str) -> Column:
    """The instant at which listen_date begins in the zone, in seconds since 1970."""
    if zone == "UTC":
        return F.unix_date("listen_date").cast("bigint") * F.lit(24 * SECONDS_PER_HOUR)
    return F.unix_seconds(local_to_instant(F.col("listen_date").cast("timestamp"), zone))


def _not_before_a_change(start: Column, until: Column, zone: str, day: Column | None = None) -> Column:
    """The last change of the zone's clock within an hour that lies between the two (microseconds), else `start`.

    With `day`, only changes on that date of the zone count.
    """
    changes = changes_within_an_hour(zone)
    if not changes:
        return start
    instants = F.array(
        *(
            F.struct(F.lit(change.instant * _MICROS).alias("at"), F.lit(change.date).cast("date").alias("date"))
            for change in changes
        )
    )
    if day is not None:
        instants = F.filter(instants, lambda change: change["date"] == day)
    return F.greatest(start, F.array_max(F.filter(instants, lambda change: change["at"] <= until))["at"])
