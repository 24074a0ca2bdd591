"""Writing what was accepted: quarantine, then the staged tables; and counting back what was written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import reduce

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from kpi_common.contracts import Dataset
from spark_app.errors import AuditError
from spark_app.ingest.candidates import Candidate, FileRows, Judged, of_files, updated
from spark_app.ingest.csv_records import number_lines
from spark_app.ingest.file_ledger import Ledger
from spark_app.ingest.file_profile import max_rows_per_day
from spark_app.ingest.staged_rows import (
    LISTEN,
    QUARANTINE_SCHEMA,
    STREAM_PARTITIONS,
    listen_day,
    quarantine_records,
    staged_songs,
    staged_streams,
    staged_users,
)
from spark_app.run.context import Context
from spark_app.run.files import Status
from spark_app.spark.local_frames import local_frame
from spark_app.spark.session import tasks_at_once

_ROWS_PER_TASK = 250_000


@dataclass(frozen=True)
class Written:
    """The commits that were made: of the quarantine, and of staged tables; None or no entry where there was nothing."""

    quarantine: int | None
    staged: Mapping[Dataset, int]


def write_files(context: Context, judged: Judged, ledger: Ledger) -> Written:
    """Write the rows of all accepted files; quarantined ones first, as a file counts once its valid rows are in."""
    quarantine = _write_quarantine(context, judged, ledger)
    order = (Dataset.USERS, Dataset.SONGS, Dataset.STREAMS)
    return Written(quarantine, {d: _write_staged(context, d, judged) for d in order if judged.accepted(d)})


def count_written(context: Context, judged: Judged, written: Written) -> tuple[Candidate, ...]:
    """Count what was written, hold it against what was judged, and return the candidates with these counts.

    Raises:
        AuditError: counts differ.
    """
    _count_quarantined(context, judged, written.quarantine)
    counted: list[Candidate] = []
    for dataset, version in written.staged.items():
        counted += _count_staged(context, dataset, version, judged)
    return updated(judged.candidates, _with_unmatched(judged, counted))


def _write_quarantine(context: Context, judged: Judged, ledger: Ledger) -> int | None:
    """Put these files' quarantined rows in the place of what they had there."""
    table = context.lake.quarantine
    is_new = table.version() < 0
    accepted = [c for c in judged.candidates if c.accepted]
    touched = [c for c in accepted if c.profile.quarantined or (not is_new and _may_have_rows(c, ledger))]
    if not touched:
        return None
    frames = [_quarantined_rows(context, rows, members) for rows in judged.rows if (members := _bad(judged, rows))]
    frame = reduce(DataFrame.unionByName, frames) if frames else local_frame(context.spark, [], QUARANTINE_SCHEMA)
    return table.replace(frame, _condition(touched), context.metadata("quarantine"))


def delete_old_rows(context: Context, limit: datetime) -> None:
    """Delete from the quarantine what was put there before."""
    if context.lake.quarantine.version() >= 0:
        none, before = local_frame(context.spark, [], QUARANTINE_SCHEMA), f"{limit.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
        context.lake.quarantine.replace(none, f"quarantined_at < '{before}'", context.metadata("delete old rows"))


def _may_have_rows(candidate: Candidate, ledger: Ledger) -> bool:
    return any(v.quarantined for v in ledger.of(candidate.file.name) if v.status in {Status.ACCEPTED, Status.ABANDONED})


def _bad(judged: Judged, rows: FileRows) -> list[Candidate]:
    return [c for c in judged.of(rows) if c.profile.quarantined]


def _quarantined_rows(context: Context, rows: FileRows, members: list[Candidate]) -> DataFrame:
    """Quarantined rows of these files (QUARANTINE_SCHEMA)."""
    bad = rows.checked.frame.where(of_files(members) & rows.checked.quarantined)
    if rows.by_lines:
        bad = number_lines(bad, {c.file_id: c.profile.blocks for c in members})
    now = F.lit(context.now.replace(tzinfo=None)).cast("timestamp")
    checked = replace(rows.checked, frame=bad)
    return quarantine_records(checked, _file_names(context, members), rows.dataset, context.run_id, now)


def _write_staged(context: Context, dataset: Dataset, judged: Judged) -> int:
    """Put the valid rows of accepted files in the place of what they had there before."""
    members, kept = judged.accepted(dataset), judged.valid_rows(dataset)
    assert kept is not None  # noqa: S101 (there are accepted files)
    if dataset is Dataset.STREAMS:
        rows = sum(c.profile.kept for c in members)
        files_per_day = _files_per_day(context, kept, members)
        partitions = max(tasks_at_once(context.spark), files_per_day, 1 + rows // _ROWS_PER_TASK)
        frame = staged_streams(kept, context.settings.kpi_time_zone, files_per_day, partitions)
    elif dataset is Dataset.SONGS:
        frame = staged_songs(kept, _file_names(context, members)).coalesce(_reference_files(members))
    else:
        frame = staged_users(kept).coalesce(_reference_files(members))
    versions = {str(c.file_id): c.version.version for c in members}
    partition_by = STREAM_PARTITIONS if dataset is Dataset.STREAMS else ()
    metadata = context.metadata("stage", files=versions)
    return context.lake.staged(dataset).replace(frame, _condition(members), metadata, partition_by)


def _reference_files(members: Iterable[Candidate]) -> int:
    """Into how many data files songs or users go."""
    return 1 + sum(c.profile.kept for c in members) // _ROWS_PER_TASK


def _files_per_day(context: Context, listens: DataFrame, members: Iterable[Candidate]) -> int:
    """Into how many data files the largest day's new listens go."""
    most = context.settings.rows_per_data_file
    # Most files have few days, and to count each day's listens takes a look at all of them.
    if max_rows_per_day(c.profile for c in members) <= most:
        return 1
    days = listens.groupBy(listen_day(context.settings.kpi_time_zone).alias("day")).agg(F.count(F.lit(1)).alias("rows"))
    largest = days.agg(F.max("rows")).first()
    return 1 + (largest[0] - 1) // most if largest else 1


def _condition(candidates: Iterable[Candidate]) -> str:
    return f"file_id IN ({', '.join(str(c.file_id) for c in candidates)})"


def _file_names(context: Context, candidates: Iterable[Candidate]) -> DataFrame:
    return local_frame(context.spark, [(c.file_id, c.file.name) for c in candidates], "file_id int, file_name string")


def _count_quarantined(context: Context, judged: Judged, version: int | None) -> None:
    counts: dict[int, int] = {}
    if version is not None:
        table = context.lake.quarantine
        added = table.read_added(context.spark, table.commit(version), {"file_id": "int"})
        counts = {row["file_id"]: row["count"] for row in added.groupBy("file_id").count().collect()}
    for candidate in judged.candidates:
        if candidate.accepted:
            _agree(candidate, "quarantined rows", counts.get(candidate.file_id, 0), candidate.profile.quarantined)


def _count_staged(context: Context, dataset: Dataset, version: int, judged: Judged) -> list[Candidate]:
    table = context.lake.staged(dataset)
    added = table.read_added(context.spark, table.commit(version), {"file_id": "int", "copies": "int"})
    sums = added.groupBy("file_id").agg(F.count(F.lit(1)).alias("valid"), F.sum("copies").alias("copies"))
    counts = {row["file_id"]: (row["valid"], row["copies"]) for row in sums.collect()}
    counted = []
    for candidate in judged.accepted(dataset):
        valid, copies = counts.get(candidate.file_id, (0, 0))
        _agree(candidate, "valid rows and duplicates", copies, candidate.profile.kept)
        counted.append(candidate.counted(valid=valid, duplicates=copies - valid))
    return counted


def _with_unmatched(judged: Judged, counted: list[Candidate]) -> list[Candidate]:
    """Count each file's listens, each once, whose track (`waiting`) or user is in no staged row."""
    listens = judged.valid_rows(Dataset.STREAMS)
    unmatched = [c for c in counted if c.version.waiting or c.version.unknown_users]
    if listens is None or not unmatched:
        return counted
    rows = listens.where(of_files(unmatched) & ~(F.col("known_track") & F.col("known_user")))
    sums = rows.select(*LISTEN, "known_track", "known_user").distinct().groupBy("file_id")
    found = sums.agg(F.count_if(~F.col("known_track")), F.count_if(~F.col("known_user"))).collect()
    counts = {file_id: {"waiting": waiting, "unknown_users": users} for file_id, waiting, users in found}
    return [c.counted(**counts.get(c.file_id, {})) for c in counted]


def _agree(candidate: Candidate, what: str, written: int, judged: int) -> None:
    if written != judged:
        raise AuditError(
            f"{candidate.file.uri}: {judged} {what} were counted, but {written} written; this is a defect: run again",
            code="conservation",
        )
