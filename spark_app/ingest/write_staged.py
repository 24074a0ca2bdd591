"""Writing what was accepted: ledger (pending), quarantine, staged tables, ledger (settled), each step repeatable."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import reduce
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_app.config.contracts import Dataset
from spark_app.errors import AuditError
from spark_app.ingest.candidates import Candidate, Group, accepted_rows, of_files
from spark_app.ingest.csv_records import number_lines
from spark_app.ingest.file_ledger import Ledger, save_ledger
from spark_app.ingest.file_profile import most_of_a_day, quarantine_reasons
from spark_app.ingest.listen_rows import LISTEN
from spark_app.ingest.staged_rows import (
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
from spark_app.spark.session import small_queries

_ROWS_PER_TASK = 250_000


def stage(
    context: Context,
    candidates: list[Candidate],
    groups: list[Group],
    ledger: Ledger,
    songs_staged: Callable[[int], object],
) -> Callable[[], None]:
    """Write the rows of all accepted files, which stay pending.

    Where listens are among them, `songs_staged` is told the version of the songs as soon as it is there.

    Returns:
        What is to be done before anything is published, beside other work: count what was written, and save what became
        of the files. It raises AuditError if counts that must agree do not; then the next run takes these files up.
    """
    accepted = [c for c in candidates if c.accepted]
    for candidate in candidates:
        candidate.pending = replace(candidate.pending, **_profile_counts(candidate, groups))
        ledger.put(candidate.pending)
    written: dict[Dataset, int] = {}
    set_aside = -1
    if accepted:
        names = [c.file.name for c in candidates]
        with ThreadPoolExecutor() as pool:
            buckets = pool.submit(_buckets, context, groups)
            apart = pool.submit(_set_apart, groups)
            with small_queries(context.spark):
                save_ledger(context.spark, context.lake.ingested_files, ledger, names, context.metadata("open"))
                apart.result()
                set_aside = _write_quarantine(context, accepted, groups, ledger)
            parts = buckets.result()

            def write(dataset: Dataset) -> int:
                version = _write_staged(context, dataset, groups, parts)
                if dataset is Dataset.SONGS and _members(Dataset.STREAMS, groups):
                    songs_staged(version if version >= 0 else context.lake.staged(dataset).version())
                return version

            commits = pool.map(write, Dataset)
            written = dict(zip(Dataset, commits, strict=True))

    def settle() -> None:
        _count_all_back(context, groups, accepted, written, set_aside)
        for frame in [frame for group in groups for frame in group.cached]:
            frame.unpersist()
        _settle(context, candidates, ledger)

    return settle


def _count_all_back(
    context: Context, groups: list[Group], accepted: list[Candidate], written: Mapping[Dataset, int], set_aside: int
) -> None:
    with ThreadPoolExecutor() as pool:
        counted = pool.submit(_count_quarantine_back, context, set_aside, accepted)
        unmatched = pool.submit(_count_unmatched, groups)
        list(pool.map(lambda dataset: _count_back(context, written[dataset], dataset, groups), written))
        counted.result()
        for candidate in _members(Dataset.STREAMS, groups):
            counts = unmatched.result().get(candidate.pending.file_id, {"waiting": 0, "unknown_users": 0})
            candidate.pending = replace(candidate.pending, **counts)


def _settle(context: Context, candidates: list[Candidate], ledger: Ledger) -> None:
    """Say and save what became of the candidates. Until then the next run finishes what this one staged."""
    for candidate in candidates:
        _settle_file(context, candidate, ledger)
    names = [c.file.name for c in candidates]
    save_ledger(context.spark, context.lake.ingested_files, ledger, names, context.metadata("settle"))


def _profile_counts(candidate: Candidate, groups: list[Group]) -> dict[str, Any]:
    checked = next((g.checked for g in groups if candidate in g.candidates), None)
    profile = candidate.profile
    return {
        "rows": profile.rows,
        "quarantined": profile.quarantined,
        "quarantined_by_reason": quarantine_reasons(profile, checked) if checked else {},
        # As rows, until they are counted as staged; what recovery goes by when the run dies before that.
        "waiting": profile.waiting if candidate.accepted else 0,
        "unknown_users": profile.unknown_users if candidate.accepted else 0,
    }


def _file_names(context: Context, candidates: Iterable[Candidate]) -> DataFrame:
    rows = [(c.pending.file_id, c.file.name) for c in candidates]
    return local_frame(context.spark, rows, "file_id int, file_name string")


def _write_quarantine(context: Context, accepted: list[Candidate], groups: list[Group], ledger: Ledger) -> int:
    """Put these files' quarantined rows in the place of what they had there; return the commit's version, or -1."""
    table = context.lake.quarantine
    had = [c for c in accepted if table.version() >= 0 and _may_have_rows(c, ledger)]
    touched = [c for c in accepted if c.profile.quarantined] + [c for c in had if not c.profile.quarantined]
    if not touched:
        return -1
    ids = ", ".join(str(c.pending.file_id) for c in touched)
    frames = [_quarantined_rows(context, group) for group in groups if _with_bad_rows(group)]
    rows = reduce(DataFrame.unionByName, frames) if frames else local_frame(context.spark, [], QUARANTINE_SCHEMA)
    return table.replace(rows, f"file_id IN ({ids})", context.metadata("quarantine"))


def _count_quarantine_back(context: Context, version: int, accepted: list[Candidate]) -> None:
    """Count what was quarantined, and hold it against what was counted before."""
    written: dict[int, int] = {}
    if version >= 0:
        table = context.lake.quarantine
        added = table.read_added(context.spark, table.commit(version), {"file_id": "int"})
        counted = added.where(of_files(accepted)).groupBy("file_id").count().collect()
        written = {row["file_id"]: row["count"] for row in counted}
    for candidate in accepted:
        _agree(candidate, "quarantined rows", written.get(candidate.pending.file_id, 0), candidate.profile.quarantined)


def _with_bad_rows(group: Group) -> list[Candidate]:
    return [c for c in group.candidates if c.accepted and c.profile.quarantined]


def _quarantined_rows(context: Context, group: Group) -> DataFrame:
    """Quarantined rows of a group's accepted files (QUARANTINE_SCHEMA)."""
    members = _with_bad_rows(group)
    rows = group.apart.where(of_files(members) & group.checked.quarantined)
    if group.by_lines:
        rows = number_lines(rows, {c.pending.file_id: c.profile.blocks for c in members})
    checked = replace(group.checked, frame=rows)
    now = F.lit(context.now.replace(tzinfo=None)).cast("timestamp")
    return quarantine_records(checked, _file_names(context, members), group.dataset, context.run_id, now)


def _may_have_rows(candidate: Candidate, ledger: Ledger) -> bool:
    earlier = [v for v in ledger.of(candidate.file.name) if v.version != candidate.pending.version]
    return any(v.quarantined for v in earlier if v.status in {Status.ACCEPTED, Status.PENDING, Status.ABANDONED})


def _members(dataset: Dataset, groups: list[Group]) -> list[Candidate]:
    return [c for g in groups if g.dataset is dataset for c in g.candidates if c.accepted]


def _set_apart(groups: list[Group]) -> None:
    for group in groups:
        if group.apart.is_cached and _with_bad_rows(group):
            group.apart.count()


def _buckets(context: Context, groups: list[Group]) -> int:
    """Into how many data files the largest day's new listens go."""
    most = context.settings.rows_per_data_file
    listens = accepted_rows(groups, Dataset.STREAMS)
    # Most files have few days, and to count each day's listens takes a look at all of them.
    if listens is None or most_of_a_day(c.profile for c in _members(Dataset.STREAMS, groups)) <= most:
        return 1
    days = listens.groupBy(listen_day(context.settings.kpi_time_zone).alias("day")).agg(F.count(F.lit(1)).alias("rows"))
    largest = days.agg(F.max("rows")).first()
    return 1 + (largest[0] - 1) // most if largest else 1


def _write_staged(context: Context, dataset: Dataset, groups: list[Group], buckets: int) -> int:
    """Put these files' valid rows in the place of what they had there before; return the commit's version, or -1."""
    members = _members(dataset, groups)
    kept = accepted_rows(groups, dataset)
    if not members or kept is None:
        return -1
    table = context.lake.staged(dataset)
    if dataset is Dataset.STREAMS:
        rows = sum(c.profile.kept for c in members)
        partitions = max(context.spark.sparkContext.defaultParallelism, 1 + rows // _ROWS_PER_TASK)
        references = next(group.references for group in groups if group.dataset is dataset)
        frame = staged_streams(kept, references, context.settings.kpi_time_zone, buckets, partitions)
    elif dataset is Dataset.SONGS:
        frame = staged_songs(kept, _file_names(context, members)).coalesce(1)
    else:
        frame = staged_users(kept).coalesce(1)
    ids = ", ".join(str(c.pending.file_id) for c in members)
    files = {str(c.pending.file_id): c.pending.version for c in members}
    partition_by = STREAM_PARTITIONS if dataset is Dataset.STREAMS else ()
    return table.replace(frame, f"file_id IN ({ids})", context.metadata("stage", files=files), partition_by)


def _count_back(context: Context, version: int, dataset: Dataset, groups: list[Group]) -> None:
    """Count what was staged, and hold it against what was counted before; all tables are written by then."""
    members = _members(dataset, groups)
    if not members:
        return
    table = context.lake.staged(dataset)
    added = table.read_added(context.spark, table.commit(version), {"file_id": "int", "copies": "int"})
    mine = added.where(of_files(members))
    counted = mine.groupBy("file_id").agg(F.count(F.lit(1)).alias("valid"), F.sum("copies").alias("copies")).collect()
    by_file = {row["file_id"]: row for row in counted}
    for candidate in members:
        row = by_file.get(candidate.pending.file_id)
        valid, copies = (row["valid"], row["copies"]) if row else (0, 0)
        _agree(candidate, "valid rows and duplicates", copies, candidate.profile.kept)
        candidate.pending = replace(candidate.pending, valid=valid, duplicates=copies - valid)


def _count_unmatched(groups: list[Group]) -> dict[int, dict[str, Any]]:
    """Return by file_id how many listens, each once, have a track (`waiting`) or a user that is in no staged row."""
    apart = [replace(group, checked=replace(group.checked, frame=group.apart)) for group in groups]
    rows = accepted_rows(apart, Dataset.STREAMS)
    found = any(c.profile.waiting or c.profile.unknown_users for c in _members(Dataset.STREAMS, groups))
    if rows is None or not found:
        return {}
    unmatched = rows.where(~F.col("known_track") | ~F.col("known_user"))
    listens = unmatched.select(*LISTEN, "known_track", "known_user").distinct()
    counted = listens.groupBy("file_id").agg(
        F.count_if(~F.col("known_track")).alias("waiting"), F.count_if(~F.col("known_user")).alias("unknown_users")
    )
    return {row["file_id"]: {name: row[name] for name in ("waiting", "unknown_users")} for row in counted.collect()}


def _agree(candidate: Candidate, what: str, written: int, counted: int) -> None:
    if written != counted:
        raise AuditError(
            f"{candidate.file.uri}: {counted} {what} were counted, but {written} written; "
            "the file changed while it was read, or this is a defect: run again",
            code="conservation",
        )


def _settle_file(context: Context, candidate: Candidate, ledger: Ledger) -> None:
    pending = candidate.pending
    if candidate.accepted and pending.rows != pending.valid + pending.duplicates + pending.quarantined:
        raise AuditError(
            f"{candidate.file.uri}: {pending.rows} rows were read, but {pending.valid} valid + "
            f"{pending.duplicates} duplicates + {pending.quarantined} quarantined",
            code="conservation",
        )
    settled = replace(
        pending,
        status=Status.ACCEPTED if candidate.accepted else Status.REJECTED,
        reason=candidate.outcome.reason,
        message=candidate.outcome.message,
        updated_at=context.now,
    )
    ledger.settle(settled)
    candidate.outcome.version = settled
