"""Top five artists of each hour."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_app.kpis.definition import Kpi, KpiInputs, ranked_first, ranks

ARTISTS_PER_HOUR = 5


def hourly_top_artists(inputs: KpiInputs) -> DataFrame:
    """Grain: (listen_hour, rank 1–5). Each artist of a track gets the play; by plays, then name (UTF-8 bytes)."""
    keys = ["listen_date", "listen_hour"]
    counts = (
        inputs.plays.join(inputs.track_artists, on="track_no", how="inner")
        .groupBy(*keys, "artist_no")
        .agg(F.sum("play_count").alias("play_count"))
    )
    best = ranked_first(F.col("play_count"), F.col("artist_no"), ARTISTS_PER_HOUR)
    ranked = ranks(counts.groupBy(*keys).agg(best.alias("best")), "best", "artist_no")
    return ranked.join(inputs.artists, on="artist_no", how="inner").select(*keys, "rank", "artist", "play_count")


KPI = Kpi("hourly_top_artists", ("listen_hour", "rank"), hourly_top_artists, rank="rank")
