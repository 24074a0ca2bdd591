"""Top three songs of each genre and day."""

from __future__ import annotations

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from spark_app.kpis.definition import Kpi, KpiInputs

SONGS_PER_GENRE = 3


def top_songs(inputs: KpiInputs) -> DataFrame:
    """Grain: (listen_date, track_genre, rank 1–3). By plays, then popularity, both descending, then track_id."""
    return inputs.top_songs


def ranked_songs(genre_plays: DataFrame) -> DataFrame:
    """Make `KpiInputs.top_songs` of its `genre_plays`."""
    keys = ["listen_date", "track_genre"]
    order = Window.partitionBy(*keys).orderBy(F.desc("play_count"), F.desc("popularity"), "track_id")
    ranked = genre_plays.select("*", F.row_number().over(order).alias("rank"))
    return ranked.where(F.col("rank") <= SONGS_PER_GENRE).select(
        *keys, "rank", "track_id", "track_name", "artists", "play_count"
    )


KPI = Kpi("top_songs", ("listen_date", "track_genre", "rank"), top_songs, rank="rank")
