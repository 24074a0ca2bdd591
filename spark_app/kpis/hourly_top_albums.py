"""Top five albums of each hour."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_app.kpis.counting import top_of_each_hour
from spark_app.kpis.definition import Kpi, KpiInputs

ALBUMS_PER_HOUR = 5


def hourly_top_albums(inputs: KpiInputs) -> DataFrame:
    """Grain: (listen_hour, rank 1–5). By plays, then name (UTF-8 bytes); tracks without an album are left out.

    Albums go by name alone: two of the same name count as one.
    """
    albums = inputs.tracks.where(F.col("album_name").isNotNull()).select("track_id", "album_name")
    return top_of_each_hour(inputs.plays, albums, "album_name", ALBUMS_PER_HOUR, inputs.time_zone)


KPI = Kpi("hourly_top_albums", ("listen_hour", "rank"), hourly_top_albums, rank="rank")
