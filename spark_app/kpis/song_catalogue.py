"""The songs and users that KPIs see: of all staged files, the newest one that names a track or a user."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from spark_app.spark.columns import age_band
from spark_app.spark.hash_join import MAX_KEYS, rows_named

USED_BY_KPIS = ("track_genre", "track_name", "artists", "album_name", "popularity", "duration_ms")


def current_songs(staged: DataFrame) -> DataFrame:
    """Grain: (track_id, track_genre), all rows of the newest file (by modification time, then name) with the track."""
    by_age = Window.partitionBy("track_id").orderBy(F.desc("file_modified_at"), F.desc("file_name"))
    ranked = staged.select("*", F.rank().over(by_age).alias("age"))
    return ranked.where(F.col("age") == 1).select("track_id", "id", *USED_BY_KPIS)


def current_tracks(songs: DataFrame) -> DataFrame:
    """Grain: track_id, with the track's own attributes: its most popular row, then the first genre."""
    best = Window.partitionBy("track_id").orderBy(F.desc("popularity"), "track_genre")
    ranked = songs.select("*", F.row_number().over(best).alias("place"))
    return ranked.where(F.col("place") == 1).drop("place", "id", "track_genre")


def changed_tracks(before: DataFrame, after: DataFrame) -> DataFrame:
    """Grain: track_id, of tracks of which any attribute that KPIs use came, went or changed."""
    return _changed(before.select("track_id", *USED_BY_KPIS), after.select("track_id", *USED_BY_KPIS), "track_id")


def current_users(staged: DataFrame) -> DataFrame:
    """Grain: user_id, with country (NULL if not known) and age_band (`unknown` then), as in the newest file.

    Of files of one modification time, the first country, then the first age band. Lakes of earlier releases have
    user_age in the place of age_band.
    """
    bands = [F.col("age_band")] if "age_band" in staged.columns else []
    bands += [age_band(F.col("user_age"))] if "user_age" in staged.columns else []
    users = staged.select(
        "file_modified_at", "user_id", F.col("user_country").alias("country"), F.coalesce(*bands).alias("age_band")
    )
    newest = Window.partitionBy("user_id").orderBy(
        F.desc("file_modified_at"), F.col("country").asc_nulls_last(), "age_band"
    )
    ranked = users.select("*", F.row_number().over(newest).alias("place"))
    return ranked.where(F.col("place") == 1).select("user_id", "country", "age_band")


def changed_users(before: DataFrame, after: DataFrame) -> DataFrame:
    """Grain: user_id, of users of whom any attribute that KPIs may use came, went or changed."""
    return _changed(before, after, "user_id")


def only_of_files(
    before: DataFrame, after: DataFrame, file_ids: Sequence[int], key: str
) -> tuple[DataFrame, DataFrame]:
    """Cut staged songs (or users) down to those that these files name before or after, unless they are very many."""
    named = [rows.where(F.col("file_id").isin(list(file_ids))).select(key) for rows in (before, after)]
    both = named[0].unionAll(named[1])
    if both.count() > MAX_KEYS:
        return before, after
    return rows_named(before, both, key), rows_named(after, both, key)


def _changed(before: DataFrame, after: DataFrame, key: str) -> DataFrame:
    return before.exceptAll(after).unionAll(after.exceptAll(before)).select(key).distinct()
