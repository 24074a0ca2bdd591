"""Top five artists of each hour."""

from __future__ import annotations

from pyspark.sql import DataFrame

from spark_app.kpis.counting import top_of_each_hour
from spark_app.kpis.definition import Kpi, KpiInputs

ARTISTS_PER_HOUR = 5


def hourly_top_artists(inputs: KpiInputs) -> DataFrame:
    """Grain: (listen_hour, rank 1–5). Each artist of a track gets the play; by plays, then name (UTF-8 bytes)."""
    return top_of_each_hour(inputs.plays, inputs.artists, "artist", ARTISTS_PER_HOUR, inputs.time_zone)


KPI = Kpi("hourly_top_artists", ("listen_hour", "rank"), hourly_top_artists, rank="rank")
