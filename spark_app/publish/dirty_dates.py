"""Which dates are due: what changed in the staged tables since the versions that the KPIs were last made from.

Dates are dirty when data of their partition changed since,
or when a song that they played did; so a run with no new file still finishes what a killed one left.
"""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import functions as F

from spark_app.config.contracts import Dataset
from spark_app.kpis.song_catalogue import changed_tracks, current_songs
from spark_app.lake.delta_tables import LogGoneError, Table
from spark_app.run.context import Context
from spark_app.run.state import Progress


@dataclass(frozen=True)
class DirtyDates:
    """Dates whose KPIs are due; those in `may_be_emptied` lost rows or songs, so they may end without KPIs."""

    dates: frozenset[str]
    may_be_emptied: frozenset[str]


def staged_versions(context: Context) -> Progress:
    """Return the newest versions of the staged tables."""
    return Progress(*(context.lake.staged(dataset).version() for dataset in Dataset))


def find_dirty_dates(context: Context, done: Progress, now: Progress) -> DirtyDates:
    """Compare the staged tables with what the KPIs were made from."""
    streams = context.lake.staged(Dataset.STREAMS)
    if now.streams_version < 0:
        return DirtyDates(frozenset(), frozenset())
    try:
        commits = streams.commits_since(done.streams_version)
    except LogGoneError:
        everything = all_dates(context, streams) | all_dates(context, context.lake.kpi("hourly"))
        return DirtyDates(frozenset(everything), frozenset(everything))
    dates: set[str] = set()
    lost: set[str] = set()
    for commit in commits:
        dates |= commit.changed_partitions("listen_date")
        lost |= commit.changed_partitions("listen_date", only_removed=True)
    if now.songs_version != done.songs_version and done.songs_version >= 0:
        of_songs = _dates_of_changed_songs(context, done, now)
        dates |= of_songs
        lost |= of_songs
    return DirtyDates(frozenset(dates), frozenset(lost))


def all_dates(context: Context, table: Table) -> set[str]:
    """Return all listen dates of a table."""
    if table.version() < 0:
        return set()
    rows = table.read(context.spark).select(F.col("listen_date").cast("string")).distinct().collect()
    return {row[0] for row in rows}


def _dates_of_changed_songs(context: Context, done: Progress, now: Progress) -> set[str]:
    songs = context.lake.staged(Dataset.SONGS)
    after = current_songs(songs.read(context.spark, now.songs_version))
    try:
        before = current_songs(songs.read(context.spark, done.songs_version))
        changed = changed_tracks(before, after)
        streams = context.lake.staged(Dataset.STREAMS).read(context.spark, now.streams_version)
        played = streams.join(changed, on="track_id", how="left_semi")
        return {row[0] for row in played.select(F.col("listen_date").cast("string")).distinct().collect()}
    except Exception as error:  # the old version's files may have been vacuumed: then every date is due
        if "DELTA_" not in str(error) and "FileNotFound" not in str(error):
            raise
        return all_dates(context, context.lake.staged(Dataset.STREAMS))
