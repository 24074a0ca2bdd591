"""From staged listens and songs to the frames that KPIs share."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from spark_app.kpis.definition import KpiInputs
from spark_app.validation import instant_to_local

SECONDS_PER_HOUR = 3600


def unique_listens(staged: DataFrame) -> DataFrame:
    """Grain: (user_id, track_id, listen_time), each once however many files hold it."""
    return staged.select("listen_date", "user_id", "track_id", "listen_time").distinct()


def hour_start(instant: Column, zone: str) -> Column:
    """The instant at which the instant's hour of the zone began.

    A doubled hour gives two hours. Where the clock is turned back within an hour, the second part begins there;
    where it skips the beginning of an hour, the hour begins when the clock goes on.
    """
    if zone == "UTC":
        return F.date_trunc("hour", instant)
    local_hour = F.date_trunc("hour", instant_to_local(instant, zone))
    earliest = F.to_utc_timestamp(local_hour, zone)
    hours_later = F.floor((F.unix_micros(instant) - F.unix_micros(earliest)) / F.lit(SECONDS_PER_HOUR * 1_000_000))
    return F.timestamp_micros(F.unix_micros(earliest) + hours_later * F.lit(SECONDS_PER_HOUR * 1_000_000))


def kpi_inputs(listens: DataFrame, songs: DataFrame, tracks: DataFrame, zone: str) -> KpiInputs:
    """Build the shared frames from unique listens (waiting ones drop out here) and the current songs and tracks."""
    known = listens.join(tracks.select("track_id"), on="track_id", how="inner").select(
        "listen_date", hour_start(F.col("listen_time"), zone).alias("listen_hour"), "user_id", "track_id"
    )
    plays = known.groupBy("listen_date", "listen_hour", "track_id").agg(F.count(F.lit(1)).alias("play_count"))
    day_plays = plays.groupBy("listen_date", "track_id").agg(F.sum("play_count").alias("play_count"))
    genre_plays = day_plays.join(songs, on="track_id", how="inner")
    return KpiInputs(known, plays, genre_plays, songs, tracks)
