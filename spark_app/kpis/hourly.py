"""KPIs of each hour."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_app.kpis.counting import plays_of_each_hour
from spark_app.kpis.definition import Kpi, KpiInputs, exact_ratio


def hourly(inputs: KpiInputs) -> DataFrame:
    """Grain: listen_hour (an instant). track_diversity_index = unique tracks / listens, rounded half up."""
    plays = plays_of_each_hour(inputs.plays, inputs.time_zone)
    return plays.join(inputs.hour_listeners, on=["listen_date", "listen_hour"], how="inner").select(
        "listen_date",
        "listen_hour",
        "listen_count",
        "unique_listeners",
        "unique_tracks",
        exact_ratio(F.col("unique_tracks"), F.col("listen_count"), 6).alias("track_diversity_index"),
    )


KPI = Kpi("hourly", ("listen_hour",), hourly)
