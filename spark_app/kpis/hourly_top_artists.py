"""Top five artists of each hour."""

from __future__ import annotations

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from spark_app.kpis.definition import Kpi, KpiInputs
from spark_app.validation import names_list

ARTISTS_PER_HOUR = 5


def hourly_top_artists(inputs: KpiInputs) -> DataFrame:
    """Grain: (listen_hour, rank 1–5). Each artist of a track gets the play; by plays, then name (UTF-8 bytes)."""
    artists = inputs.tracks.select("track_no", F.explode(names_list(F.col("artists"))).alias("artist"))
    counts = (
        inputs.plays.join(artists, on="track_no", how="inner")
        .groupBy("listen_date", "listen_hour", "artist")
        .agg(F.sum("play_count").alias("play_count"))
    )
    ranking = Window.partitionBy("listen_date", "listen_hour").orderBy(F.desc("play_count"), F.asc("artist"))
    ranked = counts.select("*", F.row_number().over(ranking).alias("rank"))
    return ranked.where(F.col("rank") <= ARTISTS_PER_HOUR).select(
        "listen_date", "listen_hour", "rank", "artist", "play_count"
    )


KPI = Kpi("hourly_top_artists", ("listen_hour", "rank"), hourly_top_artists, rank="rank")
