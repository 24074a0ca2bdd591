"""KPIs of each hour."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_app.kpis.definition import Kpi, KpiInputs, each_slot, exact_ratio, sum_of_pairs, tracks_in_each_slot


def hourly(inputs: KpiInputs) -> DataFrame:
    """Grain: listen_hour (an instant). track_diversity_index = unique tracks / listens, rounded half up."""
    days = inputs.plays.groupBy("listen_date").agg(
        sum_of_pairs("slot_pairs", inputs.slots).alias("slot_pairs"),
        tracks_in_each_slot("slot_pairs", inputs.slots).alias("tracks"),
    )
    days = days.select("listen_date", each_slot("slot_pairs", inputs.slots).alias("listens"), "tracks")
    hours = days.select("listen_date", F.posexplode(F.arrays_zip("listens", "tracks")).alias("slot", "of_slot"))
    plays = hours.select(
        "listen_date",
        "slot",
        F.col("of_slot.listens").alias("listen_count"),
        F.col("of_slot.tracks").alias("unique_tracks"),
    )
    return plays.join(inputs.hour_listeners, on=["listen_date", "slot"], how="inner").select(
        "listen_date",
        "listen_hour",
        "listen_count",
        "unique_listeners",
        "unique_tracks",
        exact_ratio(F.col("unique_tracks"), F.col("listen_count"), 6).alias("track_diversity_index"),
    )


KPI = Kpi("hourly", ("listen_hour",), hourly)
