"""Opening a lake: what a killed run left half done is finished or taken back, before anything new is begun."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from kpi_common.contracts import Dataset
from kpi_common.files import etag_of_content, storage_for
from kpi_common.log import warn
from spark_app.ingest.delta_ledger import convert_ledger
from spark_app.ingest.file_ledger import Ledger, LedgerFolder
from spark_app.lake.delta_tables import LogGoneError, Table
from spark_app.lake.tables import mark_lake
from spark_app.run.context import Context
from spark_app.run.files import FileVersion, Status
from spark_app.run.state import Progress, StateFile

_COMMITS_BACK = 50  # how far a dead run's commit to the quarantine can lie back: each run makes one or two


def open_lake(context: Context) -> StateFile:
    """Mark a new lake, read the state (an earlier release's is converted), and finish what a dead run left."""
    mark_lake(context.lake, context.settings)
    context.lake.empty_scratch()
    state = StateFile(context.lake, context.run_id)
    if not state.exists:
        convert_ledger(context, state)
    recover(context, state)
    settle_rewriting(state)
    return state


def settle_rewriting(state: StateFile) -> None:
    """Give the ledger the etag of a file that was written again without forgotten users, if it was.

    So it is no new version, which would count as newer than it is.
    """
    entry = state.value.rewriting
    if entry is None:
        return
    storage, folder = storage_for(entry.uri), LedgerFolder(state)
    tagged, found = storage.read_tagged(entry.uri), storage.find(entry.uri)
    if tagged and found and etag_of_content(tagged[0]) == entry.new_content:
        ledger = folder.read([entry.name])
        for version in [v for v in ledger.of(entry.name) if v.etag == entry.etag]:
            ledger.settle(replace(version, etag=tagged[1], size=found.size, stat=found.stat))
        folder.write(ledger, [entry.name])
    state.save("rewritten", rewriting=None)


def recover(context: Context, state: StateFile) -> None:
    """Settle every file that is open.

    A version whose rows were committed to its staged table is accepted: its quarantined rows went in before. One
    that never got there is abandoned, and quarantined rows that it put in the place of an accepted version's come
    back. A withdrawal is done again.
    """
    left = state.value.open
    if not left:
        return
    warn("a run died before it was done; taking up what it left", files=len(left))
    folder = LedgerFolder(state)
    ledger = folder.read(version.name for version in left)
    withdrawing = [version for version in left if version.status is Status.WITHDRAWING]
    take_back(context, withdrawing)
    settled = [replace(version, status=Status.WITHDRAWN, updated_at=context.now) for version in withdrawing]
    settled += _settle_pending(context, ledger, left, state.value.progress)
    folder.settle(ledger, settled, "recover")


def take_back(context: Context, versions: list[FileVersion]) -> None:
    """Remove all rows of these files from the staged tables and from quarantine."""
    for dataset in Dataset:
        _empty(context, context.lake.staged(dataset), [v.file_id for v in versions if v.dataset is dataset])
    _empty(context, context.lake.quarantine, [v.file_id for v in versions])


def _settle_pending(
    context: Context, ledger: Ledger, left: Iterable[FileVersion], progress: Progress
) -> list[FileVersion]:
    """Return what became of the pending versions; those that the ledger has already are left as they are there."""
    pending = [
        version
        for version in left
        if version.status is Status.PENDING and version.version not in {v.version for v in ledger.of(version.name)}
    ]
    settled: list[FileVersion] = []
    for dataset in sorted({version.dataset for version in pending}):
        landed = _landed(context, dataset, progress)
        settled += _accepted(
            context, dataset, [v for v in pending if v.dataset is dataset and (v.file_id, v.version) in landed]
        )
    accepted = {version.file_id for version in settled}
    abandoned = [version for version in pending if version.file_id not in accepted]
    _undo_quarantine(context, abandoned)
    return settled + [replace(version, status=Status.ABANDONED, updated_at=context.now) for version in abandoned]


def _empty(context: Context, table: Table, ids: list[int]) -> None:
    if not ids or table.version() < 0:
        return
    frame = table.read(context.spark)
    condition = _of_files(ids)
    if frame.where(condition).limit(1).count():
        files = {str(file_id): None for file_id in ids}
        table.replace(frame.where("false"), condition, context.metadata("withdraw", files=files))


def _of_files(ids: Iterable[int]) -> str:
    return f"file_id IN ({', '.join(map(str, ids))})"


def _landed(context: Context, dataset: Dataset, done: Progress) -> set[tuple[int, int]]:
    """Return (file_id, version) of all files staged since the progress, as the commits themselves say."""
    table = context.lake.staged(dataset)
    if table.version() >= 0:
        table.read(context.spark)  # Delta then completes a commit that was cut off between DynamoDB and S3 (emr.conf)
    try:
        commits = table.commits_since(done.of(dataset))
    except LogGoneError:
        return set()
    files = [commit.user_metadata.get("files", {}) for commit in commits if commit.user_metadata.get("step") == "stage"]
    return {(int(file_id), version) for entry in files for file_id, version in entry.items()}


def _accepted(context: Context, dataset: Dataset, landed: list[FileVersion]) -> list[FileVersion]:
    """Return these staged versions as accepted, with what is staged of them counted."""
    if not landed:
        return []
    staged = context.lake.staged(dataset).read(context.spark).where(_of_files(v.file_id for v in landed))
    sums = staged.groupBy("file_id").agg(F.count(F.lit(1)).alias("valid"), F.sum("copies").alias("copies"))
    rows = {row["file_id"]: row for row in sums.collect()}
    valid = {version.file_id: rows[version.file_id]["valid"] if version.file_id in rows else 0 for version in landed}
    copies = {version.file_id: rows[version.file_id]["copies"] if version.file_id in rows else 0 for version in landed}
    waiting = _unmatched(context, staged, {v.file_id: v.waiting for v in landed}, Dataset.SONGS, "track_id")
    unknown = _unmatched(context, staged, {v.file_id: v.unknown_users for v in landed}, Dataset.USERS, "user_id")
    return [
        replace(
            version,
            status=Status.ACCEPTED,
            valid=valid[version.file_id],
            duplicates=copies[version.file_id] - valid[version.file_id],
            waiting=waiting[version.file_id],
            unknown_users=unknown[version.file_id],
            updated_at=context.now,
        )
        for version in landed
    ]


def _unmatched(
    context: Context, staged: DataFrame, judged: dict[int, int], dataset: Dataset, column: str
) -> dict[int, int]:
    """Count each file's listens without a song or user.

    Never more than when they were judged: what came along then may not be there.
    """
    if not any(judged.values()) or context.lake.staged(dataset).version() < 0:
        return judged
    keys = context.lake.staged(dataset).read(context.spark).select(column).distinct()
    rows = staged.join(keys, on=column, how="left_anti").groupBy("file_id").count().collect()
    found = {row["file_id"]: row["count"] for row in rows}
    return {file_id: min(count, found.get(file_id, 0)) for file_id, count in judged.items()}


def _undo_quarantine(context: Context, versions: list[FileVersion]) -> None:
    """Put back what stood in quarantine for these files before the dead runs wrote there (if they did)."""
    table = context.lake.quarantine
    newest = table.version() if versions else -1
    if newest < 0:
        return
    ids: dict[str, list[int]] = defaultdict(list)
    for version in versions:
        ids[version.run_id].append(version.file_id)
    for number in range(newest, max(-1, newest - _COMMITS_BACK), -1):
        try:
            commit = table.commit(number)
        except LogGoneError:  # cleaned up, as all before: of runs long ago
            return
        if commit.user_metadata.get("step") != "quarantine":
            continue
        if of_run := ids.pop(commit.user_metadata.get("run_id", ""), []):
            condition = _of_files(of_run)
            before = table.read(context.spark, number - 1) if number else table.read(context.spark)
            frame = before.where(condition if number else "false")
            table.replace(frame, condition, context.metadata("undo quarantine"))
