"""KPIs of each genre and day."""

from __future__ import annotations

from decimal import Decimal

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_app.kpis.definition import Kpi, KpiInputs, exact_ratio


def daily_genre(inputs: KpiInputs) -> DataFrame:
    """Grain: (listen_date, track_genre). A listen counts in each genre of its track.

    avg_listening_time_per_user_s = total ms / 1000 / unique listeners, seconds;
    avg_track_duration_ms = mean over the distinct tracks of the genre played that day;
    popularity_index = sum of popularity over listens / 100. Each is one exact division, rounded half up.
    """
    keys = ["listen_date", "track_genre"]
    most_popular = inputs.top_songs.where(F.col("rank") == 1).select(*keys, "track_id", "track_name")
    figures = inputs.genre_days.join(inputs.genre_listeners, on=keys, how="inner")
    figures = figures.join(most_popular, on=keys, how="inner")
    return figures.select(
        *keys,
        "listen_count",
        "unique_listeners",
        "total_listening_time_ms",
        exact_ratio(F.col("total_listening_time_ms"), F.col("unique_listeners") * 1000, 3).alias(
            "avg_listening_time_per_user_s"
        ),
        exact_ratio(F.col("track_durations_ms"), F.col("tracks"), 3).alias("avg_track_duration_ms"),
        (F.col("popularity").cast("decimal(18,0)") * F.lit(Decimal("0.01")))
        .cast("decimal(18,2)")
        .alias("popularity_index"),
        F.col("track_id").alias("most_popular_track_id"),
        F.col("track_name").alias("most_popular_track_name"),
    )


KPI = Kpi("daily_genre", ("listen_date", "track_genre"), daily_genre)
