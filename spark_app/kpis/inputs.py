"""From staged listens, songs and users to the frames that KPIs share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_app.kpis.counting import (
    count_listener_days,
    count_plays,
    genre_sets,
    unique_listeners_of_genres,
    unique_listeners_of_hours,
)
from spark_app.kpis.definition import KpiInputs
from spark_app.kpis.hours import hour_start
from spark_app.kpis.song_catalogue import current_songs, current_tracks, current_users
from spark_app.kpis.top_songs import ranked_songs
from spark_app.spark.columns import names_list
from spark_app.spark.hash_join import MANY_ROWS, MAX_KEYS, broadcast_if_small, hashes_differ, join_by_hash, rows_named
from spark_app.spark.kept_frames import KeptFrames

MAX_ROWS_PER_TASK = 1_000_000


@dataclass(frozen=True)
class Staged:
    """Staged rows of the dates whose KPIs are due; `rows_per_date` are those of the listens.

    Songs and users are all, or at least all rows of those that the listens name.
    """

    listens: DataFrame
    songs: DataFrame
    users: DataFrame
    rows_per_date: Mapping[str, int]


def rows_per_date(listens: DataFrame) -> dict[str, int]:
    """Count the staged rows of each date."""
    counted = listens.groupBy("listen_date").count().collect()
    return {str(row["listen_date"]): row["count"] for row in counted}


def only_named(staged: Staged, kept: KeptFrames) -> tuple[Staged, int]:
    """Cut songs and users down to those that the listens name, where these are few, at once.

    Returns:
        The same with fewer songs and users, and how many rows of these are left.
    """
    songs = kept.keep_many_rows(rows_named(staged.songs, staged.listens, "track_id"))
    users = kept.keep_many_rows(rows_named(staged.users, staged.listens, "user_id"))
    return replace(staged, songs=songs, users=users), songs.count() + users.count()


def kpi_inputs(staged: Staged, zone: str, kept: KeptFrames) -> tuple[KpiInputs, DataFrame]:
    """Make the frames that KPIs are computed from; `kept` holds what several of them read.

    Returns:
        The inputs, and by listen_date `listens` and `genre_listens` as they are staged (unique, with a known track; one
        for each genre of the track), counted on another way than plays are, for the audit.
    """
    songs = kept.keep(current_songs(staged.songs))
    catalogue = songs.agg(F.collect_set("track_genre").alias("genres"), F.count(F.lit(1)).alias("rows")).first()
    genres, rows = (tuple(sorted(catalogue["genres"])), catalogue["rows"]) if catalogue else ((), 0)
    songs = broadcast_if_small(songs, rows)
    tracks = kept.keep(current_tracks(songs).join(genre_sets(songs, genres), on="track_id", how="inner"))
    many = sum(staged.rows_per_date.values()) >= MANY_ROWS
    by_hash = many and rows <= MAX_KEYS and hashes_differ(tracks, "track_id")
    key = F.xxhash64("track_id") if by_hash else F.col("track_id")
    tracks = broadcast_if_small(tracks.select("*", key.alias("track_key")), rows)
    known = _known_listens(staged.listens, tracks.select("track_id", "track_key"), by_hash=by_hash)
    listens = kept.keep_many_rows(_unique_listens(known, staged.rows_per_date, zone))
    plays = kept.keep(_with_track_ids(count_plays(listens, "track_key", zone), tracks))
    days = kept.keep(count_listener_days(listens, tracks, "track_key", genres, zone))
    all_listens = _with_track_ids(listens, tracks)
    genre_plays = plays.drop("plays_by_hour").join(songs.drop("id"), on="track_id", how="inner")
    attributes = ("track_name", "artists", "album_name", "popularity", "duration_ms")
    names = tracks.select("track_id", F.explode(names_list(F.col("artists"))).alias("artist"))
    inputs = KpiInputs(
        listens=all_listens,
        plays=plays,
        listener_days=days.select("listen_date", "user_id", "listen_count", "total_listening_time_ms"),
        genre_listeners=unique_listeners_of_genres(days, all_listens, songs, genres),
        hour_listeners=unique_listeners_of_hours(days, zone),
        genre_plays=genre_plays,
        genre_days=kept.keep(_genre_days(genre_plays)),
        top_songs=kept.keep(ranked_songs(genre_plays)),
        songs=songs.drop("id"),
        tracks=tracks.select("track_id", *attributes),
        artists=broadcast_if_small(names, rows),
        users=current_users(staged.users),
        time_zone=zone,
    )
    totals = days.groupBy("listen_date").agg(
        F.sum("listen_count").alias("listens"), F.sum("genre_listens").alias("genre_listens")
    )
    return inputs, totals


def _known_listens(staged: DataFrame, tracks: DataFrame, *, by_hash: bool) -> DataFrame:
    """Staged rows whose track is in a song row, with its track_key: waiting listens drop out here."""
    rows = staged.select("listen_date", "user_id", "track_id", "listen_time")
    if by_hash:
        return join_by_hash(rows, tracks, "track_id", "track_key").where(F.col("track_key").isNotNull())
    return rows.join(tracks, on="track_id", how="inner")


def _unique_listens(known: DataFrame, rows: Mapping[str, int], zone: str) -> DataFrame:
    """Grain: (user_id, track_key, listen_time), each once however many files hold it, with listen_hour in its place.

    Rows of a date are brought together once (of a large date, those of a user), which all that is counted by date and
    user, and by date and track, then finds them in.
    """
    partitions = 1 + sum(rows.values()) * 2 // MAX_ROWS_PER_TASK
    place = ["listen_date"] if max(rows.values(), default=0) <= MAX_ROWS_PER_TASK else ["listen_date", "user_id"]
    placed = known.select("listen_date", "user_id", "track_key", "listen_time").repartition(partitions, *place)
    unique = placed.distinct()
    return unique.select(
        "listen_date", hour_start(F.col("listen_time"), zone).alias("listen_hour"), "user_id", "track_key"
    )


def _genre_days(genre_plays: DataFrame) -> DataFrame:
    """Grain: (listen_date, track_genre), with sums over the plays and over the tracks of a genre."""
    return genre_plays.groupBy("listen_date", "track_genre").agg(
        F.sum("play_count").alias("listen_count"),
        F.sum(F.col("play_count") * F.col("duration_ms")).alias("total_listening_time_ms"),
        F.sum(F.col("play_count") * F.col("popularity")).alias("popularity"),
        F.count("track_id").alias("tracks"),
        F.sum("duration_ms").alias("track_durations_ms"),
    )


def _with_track_ids(frame: DataFrame, tracks: DataFrame) -> DataFrame:
    """Put track_id in the place of track_key."""
    return frame.join(tracks.select("track_key", "track_id"), on="track_key", how="inner").drop("track_key")
