"""The frames that DynamoDB items are made from: one per KPI table, and what some tables show of others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from spark_app.config.dynamodb_layout import DATE_COLUMN
from spark_app.kpis import all_kpis

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
    """Grain: (listen_date, track_genre, rank), with `genre_rank` such as `pop#1`, as layouts named it first."""
    return kpis["top_songs"].withColumn("genre_rank", ranked_key(["track_genre", "rank"]))


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
    """Return a view by name; a KPI table that has no view of its own is its own view.

    A table with ranks in groups of a date has `ranked_key` too: its key after the date in one text.
    """
    frame = VIEWS[name](kpis) if name in VIEWS else kpis[name]
    keys = [kpi.key for kpi in all_kpis() if kpi.name == name and kpi.rank]
    columns = [column for key in keys for column in key if column != DATE_COLUMN]
    return frame.withColumn("ranked_key", ranked_key(columns)) if len(columns) > 1 else frame


def ranked_key(columns: Sequence[str]) -> Column:
    """Columns of a key as one text, joined by `#`; an hour as its instant, `2024-06-25T13:00:00Z#1`."""
    hour = F.date_format("listen_hour", "yyyy-MM-dd'T'HH:mm:ss'Z'")
    return F.concat_ws("#", *(hour if name == "listen_hour" else F.col(name).cast("string") for name in columns))


def _in_rank_order(ranked: DataFrame, keys: list[str], lists: Mapping[str, str]) -> DataFrame:
    """Gather ranked rows into arrays: one row per key, `lists` names array and column."""
    entries = F.array_sort(F.collect_list(F.struct("rank", *lists.values())))
    gathered = ranked.groupBy(*keys).agg(entries.alias("entries"))
    return gathered.select(*keys, *(F.col(f"entries.{column}").alias(name) for name, column in lists.items()))
