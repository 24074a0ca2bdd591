"""The songs and users that KPIs see: of all staged files, the newest one that names a track or a user."""

from __future__ import annotations

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

USED_BY_KPIS = ("track_genre", "track_name", "artists", "album_name", "popularity", "duration_ms")
_AGE_BANDS = ((18, "under 18"), (25, "18-24"), (35, "25-34"), (45, "35-44"), (55, "45-54"), (65, "55-64"))
_OLDEST, _OLDEST_AGE = "65 and over", 130


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
    """Grain: user_id, with country and age_band (NULL if not known).

    Of several files, the newest by modification time; of one time, the user created last, then the first country.
    """
    newest = Window.partitionBy("user_id").orderBy(
        F.desc("file_modified_at"),
        F.col("created_at").desc_nulls_last(),
        F.col("user_country").asc_nulls_last(),
        F.col("user_age").asc_nulls_last(),
    )
    ranked = staged.select("*", F.row_number().over(newest).alias("place"))
    age = F.col("user_age")
    bands = F.when(age.isNull() | (age < 0) | (age > _OLDEST_AGE), None)
    for below, name in _AGE_BANDS:
        bands = bands.when(age < below, name)
    return ranked.where(F.col("place") == 1).select(
        "user_id", F.col("user_country").alias("country"), bands.otherwise(_OLDEST).alias("age_band")
    )


def changed_users(before: DataFrame, after: DataFrame) -> DataFrame:
    """Grain: user_id, of users of whom any attribute that KPIs may use came, went or changed."""
    return _changed(before, after, "user_id")


def _changed(before: DataFrame, after: DataFrame, key: str) -> DataFrame:
    return before.exceptAll(after).unionAll(after.exceptAll(before)).select(key).distinct()
