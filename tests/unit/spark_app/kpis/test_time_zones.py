"""Days and hours where clocks change, at midnight, on leap days; worked out by hand, and held against zoneinfo."""

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from chispa import assert_df_equality
from pyspark.sql import SparkSession

from spark_app.kpis.daily_genre import daily_genre
from spark_app.kpis.hourly import hourly
from spark_app.spark.time_zones import clock_changes
from tests.oracle import zones
from tests.unit.spark_app.builders import instant
from tests.unit.spark_app.kpis.inputs import inputs, song

HOURLY = (
    "listen_date date, listen_hour timestamp, listen_count bigint, unique_listeners bigint, unique_tracks bigint, "
    "track_diversity_index decimal(18,6)"
)
# zone → (listen, its date, the start of its hour); listens and hours in UTC
BY_HAND = {
    "Europe/Berlin": [
        # the doubled hour
        ("2024-10-26 21:59:59.999999", "2024-10-26", "2024-10-26 21:00:00"),
        ("2024-10-26 22:00:00", "2024-10-27", "2024-10-26 22:00:00"),
        ("2024-10-27 00:00:00", "2024-10-27", "2024-10-27 00:00:00"),  # 02:00 summer time
        ("2024-10-27 00:59:59", "2024-10-27", "2024-10-27 00:00:00"),
        ("2024-10-27 01:00:00", "2024-10-27", "2024-10-27 01:00:00"),  # 02:00 again
        ("2024-10-27 01:59:59", "2024-10-27", "2024-10-27 01:00:00"),
        ("2024-10-27 02:00:00", "2024-10-27", "2024-10-27 02:00:00"),  # 03:00
        ("2024-10-27 22:59:59", "2024-10-27", "2024-10-27 22:00:00"),  # the 25th hour of this day
        ("2024-10-27 23:00:00", "2024-10-28", "2024-10-27 23:00:00"),
        # the missing hour
        ("2024-03-30 22:59:59", "2024-03-30", "2024-03-30 22:00:00"),
        ("2024-03-30 23:00:00", "2024-03-31", "2024-03-30 23:00:00"),
        ("2024-03-31 00:59:59", "2024-03-31", "2024-03-31 00:00:00"),  # 01:59:59
        ("2024-03-31 01:00:00", "2024-03-31", "2024-03-31 01:00:00"),  # 03:00
        ("2024-03-31 21:59:59", "2024-03-31", "2024-03-31 21:00:00"),  # the 23rd hour of this day
        ("2024-03-31 22:00:00", "2024-04-01", "2024-03-31 22:00:00"),
        # a leap day
        ("2024-02-28 22:59:59", "2024-02-28", "2024-02-28 22:00:00"),
        ("2024-02-28 23:00:00", "2024-02-29", "2024-02-28 23:00:00"),
        ("2024-02-29 22:59:59", "2024-02-29", "2024-02-29 22:00:00"),
        ("2024-02-29 23:00:00", "2024-03-01", "2024-02-29 23:00:00"),
    ],
    "UTC": [
        # leap days and midnights
        ("2000-02-29 23:59:59.999999", "2000-02-29", "2000-02-29 23:00:00"),
        ("2000-03-01 00:00:00", "2000-03-01", "2000-03-01 00:00:00"),
        ("2023-02-28 23:59:59", "2023-02-28", "2023-02-28 23:00:00"),
        ("2023-03-01 00:00:00", "2023-03-01", "2023-03-01 00:00:00"),
        ("2024-02-29 00:00:00", "2024-02-29", "2024-02-29 00:00:00"),
        ("2024-12-31 23:59:59.999999", "2024-12-31", "2024-12-31 23:00:00"),
        ("2025-01-01 00:00:00", "2025-01-01", "2025-01-01 00:00:00"),
    ],
    "Asia/Kolkata": [
        # half hours
        ("2024-06-24 18:29:59.999999", "2024-06-24", "2024-06-24 17:30:00"),
        ("2024-06-24 18:30:00", "2024-06-25", "2024-06-24 18:30:00"),
        ("2024-06-24 19:29:59", "2024-06-25", "2024-06-24 18:30:00"),
        ("2024-06-24 19:30:00", "2024-06-25", "2024-06-24 19:30:00"),
        ("2024-02-29 18:29:59", "2024-02-29", "2024-02-29 17:30:00"),
        ("2024-02-29 18:30:00", "2024-03-01", "2024-02-29 18:30:00"),
    ],
    "Australia/Lord_Howe": [
        # half an hour comes twice
        ("2024-04-06 12:59:59", "2024-04-06", "2024-04-06 12:00:00"),
        ("2024-04-06 13:00:00", "2024-04-07", "2024-04-06 13:00:00"),
        ("2024-04-06 14:59:59", "2024-04-07", "2024-04-06 14:00:00"),  # 01:59:59, then it is 01:30
        ("2024-04-06 15:00:00", "2024-04-07", "2024-04-06 15:00:00"),
        ("2024-04-06 15:29:59", "2024-04-07", "2024-04-06 15:00:00"),
        ("2024-04-06 15:30:00", "2024-04-07", "2024-04-06 15:30:00"),  # 02:00
        ("2024-04-07 13:29:59", "2024-04-07", "2024-04-07 12:30:00"),
        ("2024-04-07 13:30:00", "2024-04-08", "2024-04-07 13:30:00"),
        # half an hour is missing
        ("2024-10-05 13:30:00", "2024-10-06", "2024-10-05 13:30:00"),
        ("2024-10-05 15:29:59", "2024-10-06", "2024-10-05 14:30:00"),  # 01:59:59, then it is 02:30
        ("2024-10-05 15:30:00", "2024-10-06", "2024-10-05 15:30:00"),
        ("2024-10-05 15:59:59", "2024-10-06", "2024-10-05 15:30:00"),
        ("2024-10-05 16:00:00", "2024-10-06", "2024-10-05 16:00:00"),  # 03:00
        ("2024-10-06 12:59:59", "2024-10-06", "2024-10-06 12:00:00"),
        ("2024-10-06 13:00:00", "2024-10-07", "2024-10-06 13:00:00"),
    ],
    "Pacific/Chatham": [
        # three quarters of an hour before the full one
        ("2024-04-06 13:14:59", "2024-04-07", "2024-04-06 12:15:00"),
        ("2024-04-06 13:15:00", "2024-04-07", "2024-04-06 13:15:00"),  # 03:00
        ("2024-04-06 13:59:59", "2024-04-07", "2024-04-06 13:15:00"),  # 03:44:59, then it is 02:45
        ("2024-04-06 14:00:00", "2024-04-07", "2024-04-06 14:00:00"),
        ("2024-04-06 14:14:59", "2024-04-07", "2024-04-06 14:00:00"),
        ("2024-04-06 14:15:00", "2024-04-07", "2024-04-06 14:15:00"),  # 03:00 again
        ("2024-04-06 14:59:59", "2024-04-07", "2024-04-06 14:15:00"),
    ],
    "America/St_Johns": [
        # a new day of one minute, and back
        ("2010-11-07 02:29:59", "2010-11-06", "2010-11-07 01:30:00"),
        ("2010-11-07 02:30:00", "2010-11-07", "2010-11-07 02:30:00"),  # 00:00, and at 00:01 it is 23:01 again
        ("2010-11-07 02:31:00", "2010-11-06", "2010-11-07 02:31:00"),
        ("2010-11-07 03:29:59", "2010-11-06", "2010-11-07 02:31:00"),
        ("2010-11-07 03:30:00", "2010-11-07", "2010-11-07 03:30:00"),
    ],
    "Africa/Cairo": [
        # a day begins at 01:00
        ("2024-04-25 21:59:59", "2024-04-25", "2024-04-25 21:00:00"),
        ("2024-04-25 22:00:00", "2024-04-26", "2024-04-25 22:00:00"),
        ("2024-04-26 20:59:59", "2024-04-26", "2024-04-26 20:00:00"),
        ("2024-04-26 21:00:00", "2024-04-27", "2024-04-26 21:00:00"),
        # the last hour of a day comes twice
        ("2024-10-31 20:59:59", "2024-10-31", "2024-10-31 20:00:00"),  # 23:59:59, then it is 23:00
        ("2024-10-31 21:00:00", "2024-10-31", "2024-10-31 21:00:00"),
        ("2024-10-31 21:59:59", "2024-10-31", "2024-10-31 21:00:00"),
        ("2024-10-31 22:00:00", "2024-11-01", "2024-10-31 22:00:00"),
    ],
}
ODDITIES = ("Africa/Cairo", "America/St_Johns", "Pacific/Chatham")


@pytest.mark.parametrize(
    "zone", [pytest.param(zone, marks=[pytest.mark.long] * (zone in ODDITIES)) for zone in BY_HAND]
)
def test_days_and_hours_are_those_worked_out_by_hand(spark: SparkSession, zone: str) -> None:
    """One listener, one song: so many listens of one listener and one track in each hour and each day."""
    table = BY_HAND[zone]
    given = inputs(spark, [(1, "t1", listen) for listen, _, _ in table], [song("t1")], zone)
    hours = Counter((date.fromisoformat(day), instant(hour)) for _, day, hour in table)
    diversity = {1: Decimal("1.000000"), 2: Decimal("0.500000")}
    expected = [(day, hour, count, 1, 1, diversity[count]) for (day, hour), count in hours.items()]
    frame = spark.createDataFrame(expected, HOURLY)
    assert_df_equality(hourly(given), frame, ignore_row_order=True, ignore_nullable=True)


def test_the_daily_kpis_are_cut_like_the_hours(spark: SparkSession) -> None:
    table = BY_HAND["Europe/Berlin"]
    given = inputs(spark, [(1, "t1", listen) for listen, _, _ in table], [song("t1")], "Europe/Berlin")
    days = Counter(date.fromisoformat(day) for _, day, _ in table)
    daily = daily_genre(given).select("listen_date", "listen_count", "unique_listeners")
    frame = spark.createDataFrame(
        [(day, count, 1) for day, count in days.items()],
        "listen_date date, listen_count bigint, unique_listeners bigint",
    )
    assert_df_equality(daily, frame, ignore_row_order=True, ignore_nullable=True)


ODD_ZONES = (
    "Africa/Cairo",
    "Africa/Casablanca",
    "America/Havana",
    "America/Santiago",
    "America/Sao_Paulo",
    "America/Scoresbysund",
    "America/St_Johns",
    "Antarctica/Troll",
    "Asia/Amman",
    "Asia/Beirut",
    "Asia/Gaza",
    "Asia/Kathmandu",
    "Asia/Pyongyang",
    "Asia/Tehran",
    "Atlantic/Azores",
    "Australia/Eucla",
    "Australia/Lord_Howe",
    "Europe/Berlin",
    "Pacific/Apia",
    "Pacific/Chatham",
    "Pacific/Marquesas",
)


@pytest.mark.long
@pytest.mark.parametrize("zone", ODD_ZONES)
def test_around_each_change_of_a_clock_the_hours_are_those_of_zoneinfo(spark: SparkSession, zone: str) -> None:
    """Every quarter of an hour for a day around each change since 2012, and the microsecond before it."""
    there = ZoneInfo(zone)
    steps = [timedelta(minutes=15 * quarter, microseconds=-late) for quarter in range(-50, 50) for late in (0, 1)]
    moments = {change + step for change in clock_changes(zone, 2012, 2026) for step in steps}
    moments |= {datetime(2024, 2, 28, 22, tzinfo=UTC) + step for step in steps}
    listens = [(1, "t1", moment.astimezone(UTC).replace(tzinfo=None).isoformat(" ")) for moment in sorted(moments)]
    micros = [zones.micros(moment) for moment in moments]
    wanted = Counter((zones.local_date(at, there), zones.hour_start(at, there)) for at in micros)
    rows = hourly(inputs(spark, listens, [song("t1")], zone)).collect()
    found = {
        (row["listen_date"], zones.micros(row["listen_hour"])): (row["listen_count"], row["unique_listeners"])
        for row in rows
    }
    assert len(found) == len(rows)
    assert found == {key: (count, 1) for key, count in wanted.items()}
