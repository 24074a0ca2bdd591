"""Which dates are due: what changed in the staged tables since the versions that the KPIs were last made from.

Dates are dirty when data of their partition changed since, or when a song that they played or a user did; so a run with
no new file still finishes what a killed one left.
"""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import functions as F

from kpi_common.contracts import Dataset
from spark_app.kpis import all_kpis
from spark_app.kpis.song_catalogue import (
    changed_tracks,
    changed_users,
    current_songs,
    current_users,
    only_of_files,
)
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
    if done.streams_version >= 0 and any(context.lake.kpi(kpi.name).version() < 0 for kpi in all_kpis()):
        dates |= all_dates(context, streams)  # a table that this version of the application is the first to have
    of_songs = _dates_of_changes(context, Dataset.SONGS, done, now)
    of_users = _dates_of_changes(context, Dataset.USERS, done, now)
    dates |= of_songs | of_users
    lost |= of_songs
    return DirtyDates(frozenset(dates), frozenset(lost))


def all_dates(context: Context, table: Table) -> set[str]:
    """Return all listen dates of a table."""
    if table.version() < 0:
        return set()
    rows = table.read(context.spark).select(F.col("listen_date").cast("string")).distinct().collect()
    return {row[0] for row in rows}


def _dates_of_changes(context: Context, dataset: Dataset, done: Progress, now: Progress) -> set[str]:
    """Return the dates with a listen of a song or user of which anything that KPIs use is other than it was."""
    if now.of(dataset) == done.of(dataset) or done.of(dataset) < 0:
        return set()
    table, streams = context.lake.staged(dataset), context.lake.staged(Dataset.STREAMS)
    try:
        before, after = (table.read(context.spark, versions.of(dataset)) for versions in (done, now))
        files = _changed_files(table, done.of(dataset), now.of(dataset))
        if files and context.lake.many_references(0, context.lake.reference_bytes()):
            key = "track_id" if dataset is Dataset.SONGS else "user_id"
            before, after = only_of_files(before, after, files, key)
        if dataset is Dataset.SONGS:
            changed = changed_tracks(current_songs(before), current_songs(after))
        else:
            changed = changed_users(current_users(before), current_users(after))
        listens = streams.read(context.spark, now.streams_version).join(changed, on=changed.columns, how="left_semi")
        return {row[0] for row in listens.select(F.col("listen_date").cast("string")).distinct().collect()}
    except Exception as error:  # the old version's files may have been vacuumed: then every date is due
        if "DELTA_" not in str(error) and "FileNotFound" not in str(error):
            raise
        return all_dates(context, streams)


def _changed_files(table: Table, since: int, until: int) -> list[int]:
    """Return the file_id of each file whose rows came, went or changed; none if the commits don't say all of them."""
    try:
        commits = table.commits_since(since, until)
    except LogGoneError:
        return []
    files = [commit.user_metadata.get("files", {}) for commit in commits if commit.changes_data]
    return sorted({int(file_id) for entry in files for file_id in entry}) if all(files) else []
