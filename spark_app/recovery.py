"""Recovery: what a killed run left half done is finished or taken back, before anything new is begun."""

from __future__ import annotations

from dataclasses import replace

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from kpi_common.log import warn
from spark_app.config.contracts import Dataset
from spark_app.ingest.file_ledger import Ledger, save_ledger
from spark_app.lake.delta_tables import LogGoneError, Table
from spark_app.publish.dirty_dates import Progress
from spark_app.run.context import Context
from spark_app.run.files import FileVersion, Status


def recover(context: Context, ledger: Ledger, done: Progress) -> None:
    """Settle every pending version of the ledger.

    A version whose rows were committed to its staged table is accepted: its quarantined rows went in before. One
    that never got there is abandoned, and quarantined rows that it put in the place of an accepted version's come
    back. A withdrawal is done again.
    """
    left = ledger.with_status(Status.PENDING, Status.WITHDRAWING)
    if not left:
        return
    warn("a run died before it was done; taking up what it left", files=len(left))
    for dataset in Dataset:
        landed = _landed(context, dataset, done)
        for version in [v for v in left if v.dataset is dataset]:
            if version.status is Status.WITHDRAWING:
                take_back(context, [version])
                ledger.settle(replace(version, status=Status.WITHDRAWN, updated_at=context.now))
            elif (version.file_id, version.version) in landed:
                ledger.settle(_accepted(context, version))
            else:
                _undo_quarantine(context, version)
                ledger.put(replace(version, status=Status.ABANDONED, updated_at=context.now))
    save_ledger(context.spark, context.lake.ingested_files, ledger, [v.name for v in left], context.metadata("recover"))


def take_back(context: Context, versions: list[FileVersion]) -> None:
    """Remove all rows of these files from the staged tables and from quarantine."""
    for dataset in Dataset:
        _empty(context, context.lake.staged(dataset), [v.file_id for v in versions if v.dataset is dataset])
    _empty(context, context.lake.quarantine, [v.file_id for v in versions])


def _empty(context: Context, table: Table, ids: list[int]) -> None:
    if not ids or table.version() < 0:
        return
    frame = table.read(context.spark)
    condition = f"file_id IN ({', '.join(map(str, ids))})"
    if frame.where(condition).limit(1).count():
        table.replace(frame.where("false"), condition, context.metadata("withdraw"))


def _landed(context: Context, dataset: Dataset, done: Progress) -> set[tuple[int, int]]:
    """Return (file_id, version) of all files staged since the progress, as the commits themselves say."""
    try:
        commits = context.lake.staged(dataset).commits_since(done.of(dataset))
    except LogGoneError:
        return set()
    files = [commit.user_metadata.get("files", {}) for commit in commits if commit.user_metadata.get("step") == "stage"]
    return {(int(file_id), version) for entry in files for file_id, version in entry.items()}


def _accepted(context: Context, version: FileVersion) -> FileVersion:
    staged = context.lake.staged(version.dataset).read(context.spark).where(F.col("file_id") == version.file_id)
    row = staged.agg(F.count(F.lit(1)).alias("valid"), F.sum("copies").alias("copies")).first()
    valid, copies = (row["valid"], row["copies"] or 0) if row else (0, 0)
    return replace(
        version,
        status=Status.ACCEPTED,
        valid=valid,
        duplicates=copies - valid,
        waiting=_unmatched(context, staged, version.waiting, Dataset.SONGS, "track_id"),
        unknown_users=_unmatched(context, staged, version.unknown_users, Dataset.USERS, "user_id"),
        updated_at=context.now,
    )


def _unmatched(context: Context, staged: DataFrame, judged: int, dataset: Dataset, column: str) -> int:
    """Count listens without a song or user; never more than when they were judged: what came along may not be there."""
    if not judged or context.lake.staged(dataset).version() < 0:
        return judged
    keys = context.lake.staged(dataset).read(context.spark).select(column).distinct()
    return min(judged, staged.join(keys, on=column, how="left_anti").count())


def _undo_quarantine(context: Context, version: FileVersion) -> None:
    """Put back what stood in quarantine for this file before the dead run wrote there (if it did)."""
    table = context.lake.quarantine
    newest = table.version()
    try:
        commits = table.commits_since(max(-1, newest - 50))
    except LogGoneError:
        return
    mine = [
        c
        for c in commits
        if c.user_metadata.get("run_id") == version.run_id and c.user_metadata.get("step") == "quarantine"
    ]
    condition = f"file_id = {version.file_id}"
    if not mine or not table.read(context.spark).where(condition).limit(1).count():
        return
    frame = table.read(context.spark).where("false")
    if mine[0].version > 0:
        frame = table.read(context.spark, mine[0].version - 1).where(condition)
    table.replace(frame, condition, context.metadata("undo quarantine"))
