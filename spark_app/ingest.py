"""Ingest: new files are inspected, judged and staged, in steps that can all be done again.

Order: ledger (pending) → quarantine → staged → ledger (settled). Whatever is killed in between leaves pending files,
which the next run takes up again under the same file_id.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from spark_app.context import Context
from spark_app.contracts import Dataset, load_contract
from spark_app.errors import AuditError, NothingUsableError
from spark_app.input_files import InputFile, Listing
from spark_app.inspection import Inspection, inspect_files
from spark_app.ledger import Decision, FileVersion, Ledger, Status, save_ledger
from spark_app.log import log, warn
from spark_app.profile import (
    FileProfile,
    References,
    dataset_quality,
    profile_files,
    quality,
    quarantine_reasons,
    verdict,
)
from spark_app.records import SourceFile, line_records, numbered_line_records, quoted_records, split_fields
from spark_app.result import FileOutcome
from spark_app.staging import STREAM_PARTITIONS, quarantine_records, staged_songs, staged_streams, staged_users
from spark_app.validation import Checked, check

_SAMPLES = 5


@dataclass
class Candidate:
    """A file that this run judges."""

    inspection: Inspection
    pending: FileVersion
    outcome: FileOutcome
    profile: FileProfile = field(default_factory=FileProfile)

    @property
    def file(self) -> InputFile:
        return self.inspection.file

    @property
    def accepted(self) -> bool:
        return self.outcome.outcome == "accepted"

    @property
    def source(self) -> SourceFile:
        return SourceFile(
            self.pending.file_id, self.file.uri, self.file.modified_at, self.inspection.header
        )


@dataclass(frozen=True)
class Group:
    """Candidates of one dataset with the same header, and their rows as checked."""

    dataset: Dataset
    candidates: tuple[Candidate, ...]
    checked: Checked


def ingest(context: Context, listing: Listing, ledger: Ledger) -> None:
    """Take in all new files of a listing; outcomes go into the result.

    Raises:
        NothingUsableError: there are no songs or no users, neither new nor staged.
        AuditError: counts that must agree do not.
    """
    with context.steps.step("choose files"):
        chosen = _choose(context, listing, ledger)
    if not chosen:
        return
    with context.steps.step("inspect files"):
        candidates = _inspect(context, chosen, ledger)
    if not candidates:
        return
    with context.steps.step("validate"):
        groups = _judge(context, candidates, ledger)
    with context.steps.step("stage"):
        _stage(context, candidates, groups, ledger)


def _choose(context: Context, listing: Listing, ledger: Ledger) -> list[InputFile]:
    """Leave out what is done, and what is over max_files or max_bytes (songs and users come first)."""
    result = context.result
    result.ignored += listing.ignored
    result.files += [FileOutcome(f, "missing", message="named by the manifest, but gone") for f in listing.missing]
    result.files += [
        FileOutcome(f, "changed", message="its content changed after the manifest was made; list it again")
        for f in listing.changed
    ]
    known = [replace(f, etag=f.etag or ledger.etag_by_stat(f)) for f in listing.files]
    new = [f for f in known if f.etag is None or _is_new(context, f, ledger)]
    songs_changed = any(f.dataset is Dataset.SONGS for f in new)
    if songs_changed:
        retried = [f for f in known if f not in new and f.etag and ledger.decide(f, songs_changed=True) is Decision.NEW]
        context.result.unlisted["rejected_before"] -= len(retried)
        new += retried
    return _within_limits(context, sorted(new, key=lambda f: (f.dataset is Dataset.STREAMS, f.order)))


def _is_new(context: Context, file: InputFile, ledger: Ledger) -> bool:
    decision = ledger.decide(file)
    if decision is Decision.NEW:
        return True
    names = {Decision.STILL_REJECTED: "rejected_before", Decision.STILL_WITHDRAWN: "withdrawn_before"}
    context.result.unlisted[names.get(decision, str(decision))] += 1
    return False


def _within_limits(context: Context, files: list[InputFile]) -> list[InputFile]:
    taken, size = [], 0
    for number, file in enumerate(files):
        size += file.size
        if taken and (len(taken) >= context.settings.max_files or size > context.settings.max_bytes):
            context.result.unlisted["deferred"] += len(files) - number
            log("the rest of the backlog waits for the next run", files=len(files) - number)
            break
        taken.append(file)
    return taken


def _inspect(context: Context, files: list[InputFile], ledger: Ledger) -> list[Candidate]:
    inspections = inspect_files(files, lambda: context.spark, context.settings.inspect_on_driver_bytes)
    songs_changed = any(i.file.dataset is Dataset.SONGS for i in inspections)
    candidates = []
    for asked, inspection in zip(files, inspections, strict=True):
        file = inspection.file
        if asked.etag is None and ledger.decide(file, songs_changed=songs_changed) is not Decision.NEW:
            _is_new(context, file, ledger)
            continue
        pending = ledger.open(file, context.run_id, context.now)
        outcome = FileOutcome(file, "accepted", notes=_header_notes(inspection))
        candidate = Candidate(inspection, pending, outcome)
        if inspection.reason is not None:
            _reject(candidate, inspection.reason, inspection.message or "")
        candidates.append(candidate)
    context.result.files += [candidate.outcome for candidate in candidates]
    log("files to take in", files=len(candidates), bytes=sum(c.file.size for c in candidates))
    return candidates


def _header_notes(inspection: Inspection) -> list[str]:
    known = load_contract(inspection.file.dataset).names
    extra = [name for name in inspection.header if name not in known]
    return [f"ignored columns: {', '.join(extra)}"] if extra else []


def _reject(candidate: Candidate, reason: str, message: str) -> None:
    outcome = candidate.outcome
    outcome.outcome, outcome.reason, outcome.message = "rejected", reason, message
    warn("file rejected", file=candidate.file.name, reason=reason, detail=message)


def _judge(context: Context, candidates: list[Candidate], ledger: Ledger) -> list[Group]:
    """Profile every readable file and decide; songs and users first, as streams are held against them."""
    groups = []
    for dataset in (Dataset.SONGS, Dataset.USERS):
        groups += _judge_dataset(context, dataset, candidates, References())
    _require_references(candidates, ledger)
    if any(c.file.dataset is Dataset.STREAMS and c.accepted for c in candidates):
        references = _references(context, groups)
        streams = _judge_dataset(context, Dataset.STREAMS, candidates, references)
        _refuse_reused_names(context, streams, ledger)
        groups += streams
    return groups


def _judge_dataset(
    context: Context, dataset: Dataset, candidates: list[Candidate], references: References
) -> list[Group]:
    readable = [c for c in candidates if c.file.dataset is dataset and c.accepted]
    groups = []
    for header, members in _by_header(readable).items():
        checked = _checked(context, dataset, members, header)
        lines = not load_contract(dataset).newline_in_field
        profiles = profile_files(checked, references, header_among_rows=lines)
        for candidate in members:
            candidate.profile = profiles.get(candidate.pending.file_id, FileProfile())
            _judge_file(context, candidate, checked)
        groups.append(Group(dataset, tuple(members), checked))
    if readable:
        contract = load_contract(dataset)
        context.result.quality[str(dataset)] = dataset_quality([c.profile for c in readable], contract)
    return groups


def _checked(context: Context, dataset: Dataset, members: Sequence[Candidate], header: tuple[str, ...]) -> Checked:
    contract = load_contract(dataset)
    sources = [candidate.source for candidate in members]
    if not contract.newline_in_field:
        fields = split_fields(line_records(context.spark, sources), contract, header)
        return check(fields, contract, context.settings)
    # Songs and users are small, looked at several times, and cut into records by Python: parsed once.
    checked = check(split_fields(quoted_records(context.spark, sources), contract, header), contract, context.settings)
    return replace(checked, frame=checked.frame.persist())


def _judge_file(context: Context, candidate: Candidate, checked: Checked) -> None:
    profile = candidate.profile
    if profile.lines != candidate.inspection.lines:
        raise AuditError(
            f"{candidate.file.uri}: {profile.lines} lines were read, but {candidate.inspection.lines} counted: "
            "the file changed while it was read; run again",
            code="conservation",
        )
    candidate.outcome.quality = quality(profile, checked.contract)
    against = verdict(profile, checked, context.settings)
    if against is not None:
        _reject(candidate, *against)
        candidate.outcome.samples = _samples(checked, candidate)


def _samples(checked: Checked, candidate: Candidate) -> list[dict[str, object]]:
    bad = checked.frame.where((F.col("file_id") == candidate.pending.file_id) & checked.quarantined)
    rows = bad.where(~F.col("is_header")).select("raw", checked.reasons_column().alias("reasons")).limit(_SAMPLES)
    return [{"raw": row["raw"][:500], "reasons": row["reasons"]} for row in rows.collect()]


def _by_header(candidates: Iterable[Candidate]) -> dict[tuple[str, ...], list[Candidate]]:
    groups: dict[tuple[str, ...], list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        groups[candidate.inspection.header].append(candidate)
    return groups


def _require_references(candidates: list[Candidate], ledger: Ledger) -> None:
    for dataset in (Dataset.SONGS, Dataset.USERS):
        new = [c for c in candidates if c.file.dataset is dataset]
        staged = any(v.dataset is dataset for v in ledger.with_status(Status.ACCEPTED))
        if not staged and not any(c.accepted for c in new):
            refused = "; ".join(f"{c.file.name}: {c.outcome.reason}: {c.outcome.message}" for c in new)
            raise NothingUsableError(
                f"no usable {dataset} file: the first run needs one in {dataset}/ below the input"
                + (f" ({refused})" if refused else ""),
                code=f"{dataset}_refused" if refused else f"{dataset}_missing",
            )


def _accepted_kept(groups: list[Group], dataset: Dataset) -> DataFrame | None:
    """Valid rows of the accepted files of a dataset, or None if there is no such file."""
    frames = []
    for group in groups:
        ids = [c.pending.file_id for c in group.candidates if c.accepted]
        if group.dataset is dataset and ids:
            frames.append(group.checked.kept.where(F.col("file_id").isin(ids)))
    if not frames:
        return None
    whole = frames[0]
    for frame in frames[1:]:
        whole = whole.unionByName(frame)
    return whole


def _references(context: Context, groups: list[Group]) -> References:
    """Keys of the tracks and users known once this run's files are staged."""
    frames = {}
    for dataset, column in ((Dataset.SONGS, "track_id"), (Dataset.USERS, "user_id")):
        table = context.lake.staged(dataset)
        replaced = [c.pending.file_id for g in groups if g.dataset is dataset for c in g.candidates if c.accepted]
        parts = []
        if table.version() >= 0:
            parts.append(table.read(context.spark).where(~F.col("file_id").isin(replaced)).select(column))
        new = _accepted_kept(groups, dataset)
        if new is not None:
            parts.append(new.select(column))
        keys = parts[0] if len(parts) == 1 else parts[0].unionAll(parts[1])
        frames[column] = keys.distinct().persist()
    return References(frames["track_id"], frames["user_id"])


def _refuse_reused_names(context: Context, groups: list[Group], ledger: Ledger) -> None:
    """Reject a corrected streams file that shares no listen with what it replaces (`name_reused`)."""
    if context.settings.allow_name_reuse:
        return
    corrected = {
        c.pending.file_id: c
        for g in groups
        for c in g.candidates
        if c.accepted and (before := ledger.accepted(c.file.name)) is not None and before.valid > 0
    }
    new = _accepted_kept(groups, Dataset.STREAMS)
    if not corrected or new is None:
        return
    keys = ["file_id", "user_id", "track_id", "listen_time"]
    staged = context.lake.staged(Dataset.STREAMS).read(context.spark).where(F.col("file_id").isin(list(corrected)))
    shared = new.select(*keys).join(staged.select(*keys), on=keys, how="inner").select("file_id").distinct().collect()
    for file_id in set(corrected) - {row["file_id"] for row in shared}:
        before = ledger.accepted(corrected[file_id].file.name)
        _reject(
            corrected[file_id],
            "name_reused",
            f"shares no listen with the accepted version of {before.modified_at.isoformat() if before else '?'}: "
            "give the new file a name of its own, or set allow_name_reuse=true to replace the old rows",
        )


def _stage(context: Context, candidates: list[Candidate], groups: list[Group], ledger: Ledger) -> None:
    accepted = [c for c in candidates if c.accepted]
    names = [c.file.name for c in candidates]
    for candidate in candidates:
        candidate.pending = replace(candidate.pending, **_profile_counts(candidate, groups))
        ledger.put(candidate.pending)
    table = context.lake.ingested_files
    if accepted:
        save_ledger(context.spark, table, ledger, names, context.metadata("open"))
        _write_quarantine(context, accepted, groups, ledger)
        for dataset in (Dataset.SONGS, Dataset.USERS, Dataset.STREAMS):
            _write_staged(context, dataset, groups, ledger)
    _settle(context, candidates, ledger)
    save_ledger(context.spark, table, ledger, names, context.metadata("settle"))


def _profile_counts(candidate: Candidate, groups: list[Group]) -> dict[str, object]:
    checked = next((g.checked for g in groups if candidate in g.candidates), None)
    profile = candidate.profile
    return {
        "rows": profile.rows,
        "quarantined": profile.quarantined,
        "quarantined_by_reason": quarantine_reasons(profile, checked) if checked else {},
    }


def _file_names(context: Context, candidates: Iterable[Candidate]) -> DataFrame:
    rows = [(c.pending.file_id, c.file.name) for c in candidates]
    return context.spark.createDataFrame(rows, "file_id int, file_name string")


def _write_quarantine(context: Context, accepted: list[Candidate], groups: list[Group], ledger: Ledger) -> None:
    """Put these files' quarantined rows in the place of what they had there before."""
    table = context.lake.quarantine
    had = [c for c in accepted if table.version() >= 0 and _may_have_rows(c, ledger)]
    touched = [c for c in accepted if c.profile.quarantined] + [c for c in had if not c.profile.quarantined]
    if not touched:
        return
    now = F.lit(context.now.replace(tzinfo=None)).cast("timestamp")
    frames = []
    for group in groups:
        members = [c for c in group.candidates if c.accepted and c.profile.quarantined]
        if members:
            checked = group.checked
            if not checked.contract.newline_in_field:
                sources = [c.source for c in members]
                fields = split_fields(numbered_line_records(context.spark, sources), checked.contract, sources[0].header)
                checked = check(fields, checked.contract, context.settings)
            checked = replace(checked, frame=checked.frame.where(_of(members)))
            frames.append(quarantine_records(checked, _file_names(context, members), group.dataset, context.run_id, now))
    schema = "file_id int, dataset string, file_name string, line_number bigint, raw string, reasons array<string>, run_id string, quarantined_at timestamp"
    rows = frames[0] if frames else context.spark.createDataFrame([], schema)
    for frame in frames[1:]:
        rows = rows.unionByName(frame)
    ids = ", ".join(str(c.pending.file_id) for c in touched)
    version = table.replace(rows, f"file_id IN ({ids})", context.metadata("quarantine"))
    counted = table.read(context.spark, version).where(_of(touched)).groupBy("file_id").count().collect()
    written = {row["file_id"]: row["count"] for row in counted}
    for candidate in touched:
        _agree(candidate, "quarantined rows", written.get(candidate.pending.file_id, 0), candidate.profile.quarantined)


def _of(candidates: Iterable[Candidate]) -> Column:
    return F.col("file_id").isin([c.pending.file_id for c in candidates])


def _may_have_rows(candidate: Candidate, ledger: Ledger) -> bool:
    earlier = [v for v in ledger.of(candidate.file.name) if v.version != candidate.pending.version]
    return any(v.quarantined for v in earlier if v.status in {Status.ACCEPTED, Status.PENDING, Status.ABANDONED})


def _write_staged(context: Context, dataset: Dataset, groups: list[Group], ledger: Ledger) -> None:
    """Put these files' valid rows in the place of what they had there before, and count them back."""
    members = [c for g in groups if g.dataset is dataset for c in g.candidates if c.accepted]
    kept = _accepted_kept(groups, dataset)
    if not members or kept is None:
        return
    table = context.lake.staged(dataset)
    if dataset is Dataset.STREAMS:
        rows = sum(c.profile.kept for c in members)
        buckets = 1 + rows // context.settings.rows_per_data_file
        partitions = max(context.spark.sparkContext.defaultParallelism, 1 + rows // 1_500_000)
        frame = staged_streams(kept, context.settings.kpi_time_zone, buckets, partitions)
    elif dataset is Dataset.SONGS:
        frame = staged_songs(kept, _file_names(context, members)).coalesce(1)
    else:
        frame = staged_users(kept).coalesce(1)
    ids = ", ".join(str(c.pending.file_id) for c in members)
    files = {str(c.pending.file_id): c.pending.version for c in members}
    partition_by = STREAM_PARTITIONS if dataset is Dataset.STREAMS else ()
    version = table.replace(frame, f"file_id IN ({ids})", context.metadata("stage", files=files), partition_by)
    _count_back(context, table.read(context.spark, version), dataset, members)


def _count_back(context: Context, staged: DataFrame, dataset: Dataset, members: list[Candidate]) -> None:
    mine = staged.where(_of(members))
    counted = mine.groupBy("file_id").agg(F.count(F.lit(1)).alias("valid"), F.sum("copies").alias("copies")).collect()
    by_file = {row["file_id"]: row for row in counted}
    waiting = unknown = {}
    if dataset is Dataset.STREAMS and any(c.profile.waiting for c in members):
        waiting = _without_match(context, mine, Dataset.SONGS, "track_id")
    if dataset is Dataset.STREAMS and any(c.profile.unknown_users for c in members):
        unknown = _without_match(context, mine, Dataset.USERS, "user_id")
    for candidate in members:
        row = by_file.get(candidate.pending.file_id)
        valid, copies = (row["valid"], row["copies"]) if row else (0, 0)
        _agree(candidate, "valid rows and duplicates", copies, candidate.profile.kept)
        candidate.pending = replace(
            candidate.pending,
            valid=valid,
            duplicates=copies - valid,
            waiting=waiting.get(candidate.pending.file_id, 0),
            unknown_users=unknown.get(candidate.pending.file_id, 0),
        )


def _without_match(context: Context, staged: DataFrame, dataset: Dataset, column: str) -> dict[int, int]:
    """Count staged listens by file_id whose track or user is in no staged row."""
    keys = context.lake.staged(dataset).read(context.spark).select(column).distinct()
    missing = staged.join(keys, on=column, how="left_anti").groupBy("file_id").count().collect()
    return {row["file_id"]: row["count"] for row in missing}


def _agree(candidate: Candidate, what: str, written: int, counted: int) -> None:
    if written != counted:
        raise AuditError(
            f"{candidate.file.uri}: {counted} {what} were counted, but {written} written; "
            "the file changed while it was read, or this is a defect: run again",
            code="conservation",
        )


def _settle(context: Context, candidates: list[Candidate], ledger: Ledger) -> None:
    for candidate in candidates:
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
