"""Top five genres of each day."""

from __future__ import annotations

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from spark_app.kpis.definition import Kpi, KpiInputs

GENRES_PER_DAY = 5


def top_genres(inputs: KpiInputs) -> DataFrame:
    """Grain: (listen_date, rank 1–5). By listens descending, then the genre's name (UTF-8 bytes)."""
    order = Window.partitionBy("listen_date").orderBy(F.desc("listen_count"), "track_genre")
    ranked = inputs.genre_days.select("*", F.row_number().over(order).alias("rank"))
    return ranked.where(F.col("rank") <= GENRES_PER_DAY).select("listen_date", "rank", "track_genre", "listen_count")


KPI = Kpi("top_genres", ("listen_date", "rank"), top_genres, rank="rank")
