"""KPIs of each hour."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_app.kpis.definition import Kpi, KpiInputs, exact_ratio


def hourly(inputs: KpiInputs) -> DataFrame:
    """Grain: listen_hour (an instant). track_diversity_index = unique tracks / listens, rounded half up."""
    keys = ["listen_date", "listen_hour"]
    plays = inputs.plays.groupBy(*keys).agg(
        F.sum("play_count").alias("listen_count"), F.count(F.lit(1)).alias("unique_tracks")
    )
    return plays.join(inputs.hour_listeners, on=keys, how="inner").select(
        *keys,
        "listen_count",
        "unique_listeners",
        "unique_tracks",
        exact_ratio(F.col("unique_tracks"), F.col("listen_count"), 6).alias("track_diversity_index"),
    )


KPI = Kpi("hourly", ("listen_hour",), hourly)
