"""The songs that KPIs see: of all staged songs files, the newest one that names a track."""

from __future__ import annotations

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

USED_BY_KPIS = ("track_genre", "track_name", "artists", "popularity", "duration_ms")


def current_songs(staged: DataFrame) -> DataFrame:
    """Grain: (track_id, track_genre), all rows of the newest file (by modification time, then name) with the track."""
    by_age = Window.partitionBy("track_id").orderBy(F.desc("file_modified_at"), F.desc("file_name"))
    ranked = staged.select("*", F.rank().over(by_age).alias("age"))
    return ranked.where(F.col("age") == 1).select("track_id", "id", *USED_BY_KPIS)


def current_tracks(songs: DataFrame) -> DataFrame:
    """Grain: track_id, with the track's own attributes: its most popular row, then the first genre."""
    best = Window.partitionBy("track_id").orderBy(F.desc("popularity"), "track_genre")
    ranked = songs.select("*", F.row_number().over(best).alias("place"))
    return ranked.where(F.col("place") == 1).select("track_id", "track_name", "artists", "popularity", "duration_ms")


def changed_tracks(before: DataFrame, after: DataFrame) -> DataFrame:
    """Grain: track_id, of tracks of which any attribute that KPIs use came, went or changed."""
    columns = ("track_id", *USED_BY_KPIS)
    old, new = before.select(*columns), after.select(*columns)
    return old.exceptAll(new).unionAll(new.exceptAll(old)).select("track_id").distinct()
