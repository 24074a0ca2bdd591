"""KPIs of each country and day."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_app.kpis.definition import Kpi, KpiInputs

UNKNOWN = "unknown"


def daily_country(inputs: KpiInputs) -> DataFrame:
    """Grain: (listen_date, country). Listeners that are in no users file, or have no country there, are `unknown`.

    total_listening_time_ms = sum over listens of the duration of the track.
    """
    days = inputs.listener_days.join(inputs.users, on="user_id", how="left")
    country = F.coalesce("country", F.lit(UNKNOWN)).alias("country")
    return days.groupBy("listen_date", country).agg(
        F.sum("listen_count").alias("listen_count"),
        F.count("user_id").alias("unique_listeners"),
        F.sum("total_listening_time_ms").alias("total_listening_time_ms"),
    )


KPI = Kpi("daily_country", ("listen_date", "country"), daily_country)
