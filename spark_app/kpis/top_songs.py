"""Top three songs of each genre and day."""

from __future__ import annotations

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from spark_app.kpis.definition import Kpi, KpiInputs

SONGS_PER_GENRE = 3


def top_songs(inputs: KpiInputs) -> DataFrame:
    """Grain: (listen_date, track_genre, rank 1–3). By plays, then popularity, both descending, then track_id."""
    order = [F.desc("play_count"), F.desc("popularity"), F.asc("track_id")]
    ranking = Window.partitionBy("listen_date", "track_genre").orderBy(*order)
    ranked = inputs.genre_plays.select("*", F.row_number().over(ranking).alias("rank"))
    return ranked.where(F.col("rank") <= SONGS_PER_GENRE).select(
        "listen_date", "track_genre", "rank", "track_id", "track_name", "artists", "play_count"
    )


KPI = Kpi("top_songs", ("listen_date", "track_genre", "rank"), top_songs, rank="rank")
