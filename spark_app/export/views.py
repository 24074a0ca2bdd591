"""The frames that DynamoDB items are made from: a KPI table each, and what some tables show of others."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

Kpis = Mapping[str, DataFrame]
SEPARATOR = ", "


def daily_genre_view(kpis: Kpis) -> DataFrame:
    """Grain: (listen_date, track_genre), with the genre's top songs and the day's top genres."""
    keys = ["listen_date", "track_genre"]
    songs = _in_rank_order(kpis["top_songs"], keys, {"top_3_song_names": "track_name", "top_3_track_ids": "track_id"})
    genres = _in_rank_order(kpis["top_genres"], ["listen_date"], {"genres": "track_genre"})
    return (
        kpis["daily_genre"]
        .join(songs, on=keys, how="left")
        .join(genres, on="listen_date", how="left")
        .withColumn("top_3_songs", F.concat_ws(SEPARATOR, "top_3_song_names"))
        .withColumn("top_5_genres", F.concat_ws(SEPARATOR, "genres"))
    )


def top_songs_view(kpis: Kpis) -> DataFrame:
    """Grain: (listen_date, track_genre, rank), with `genre_rank` such as `pop#1`."""
    return kpis["top_songs"].withColumn("genre_rank", F.concat("track_genre", F.lit("#"), F.col("rank").cast("string")))


def hourly_view(kpis: Kpis) -> DataFrame:
    """Grain: listen_hour, with the hour's top artists."""
    keys = ["listen_date", "listen_hour"]
    artists = _in_rank_order(kpis["hourly_top_artists"], keys, {"top_artists": "artist"})
    return kpis["hourly"].join(artists, on=keys, how="left")


VIEWS: Mapping[str, Callable[[Kpis], DataFrame]] = {
    "daily_genre": daily_genre_view,
    "top_songs": top_songs_view,
    "hourly": hourly_view,
}


def view(name: str, kpis: Kpis) -> DataFrame:
    """Return a view by name; a KPI table that has no view of its own is its own view."""
    return VIEWS[name](kpis) if name in VIEWS else kpis[name]


def _in_rank_order(ranked: DataFrame, keys: list[str], lists: Mapping[str, str]) -> DataFrame:
    """Gather ranked rows into arrays: one row a key, `lists` names array and column."""
    entries = F.array_sort(F.collect_list(F.struct("rank", *lists.values())))
    gathered = ranked.groupBy(*keys).agg(entries.alias("entries"))
    return gathered.select(*keys, *(F.col(f"entries.{column}").alias(name) for name, column in lists.items()))
