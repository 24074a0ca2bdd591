"""Judging: each readable file is profiled and accepted or rejected, before anything of it is written."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce

from pyspark import StorageLevel
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from kpi_common.contracts import Contract, Dataset, load_contract
from kpi_common.errors import first_of
from spark_app.config.settings import Settings
from spark_app.errors import AuditError, NothingUsableError
from spark_app.ingest.candidates import Candidate, FileRows, Judged, of_files, updated
from spark_app.ingest.csv_records import line_records, quoted_records, split_fields, without_carriage_returns
from spark_app.ingest.discovery import LEFT_ALONE, change_of
from spark_app.ingest.file_ledger import Ledger
from spark_app.ingest.file_profile import (
    FLAGS,
    FileProfile,
    References,
    count_by_flags,
    profile_files,
    quarantine_reasons,
    verdict,
)
from spark_app.ingest.forgotten_rows import flag_forgotten
from spark_app.ingest.preflight import rejection_hint
from spark_app.ingest.staged_rows import LISTEN, listen_day
from spark_app.ingest.validation import Checked, check
from spark_app.ingest.value_limits import too_many_values
from spark_app.run.context import Context
from spark_app.spark.kept_frames import KeptFrames
from spark_app.spark.session import BYTES_PER_ROW, plans_for_a_pass

_SAMPLES = 5
_SAMPLE_LENGTH = 500


def judge_references(context: Context, candidates: Sequence[Candidate], kept: KeptFrames) -> Judged:
    """Profile every readable file of songs and users and decide; first of all, as streams are held against them."""
    songs = _judge_dataset(context, Dataset.SONGS, candidates, References(), kept)
    return songs + _judge_dataset(context, Dataset.USERS, candidates, References(), kept)


def require_references(judged: Judged, staged: Iterable[Dataset]) -> None:
    """Check that there are songs and users: staged already, or accepted now.

    Raises:
        NothingUsableError: says which are not, and why files of them were rejected.
    """
    for dataset in (Dataset.SONGS, Dataset.USERS):
        if dataset not in staged and not judged.accepted(dataset):
            rejected = [c.version for c in judged.candidates if c.file.dataset is dataset]
            reasons = first_of([f"{version.name}: {version.reason}: {version.message}" for version in rejected])
            raise NothingUsableError(
                f"no usable {dataset} file: the first run needs one in {dataset}/ below the input"
                + (f" ({reasons})" if reasons else ""),
                code=f"{dataset}_refused" if reasons else f"{dataset}_missing",
            )


def judge_streams(
    context: Context, candidates: Sequence[Candidate], references: Judged, ledger: Ledger, kept: KeptFrames
) -> Judged:
    """Profile every readable streams file and decide; `references` are songs and users that this run judged before."""
    if not any(c.accepted and c.file.dataset is Dataset.STREAMS for c in candidates):
        return Judged(tuple(c for c in candidates if c.file.dataset is Dataset.STREAMS))
    tracks = _keys(context, Dataset.SONGS, "track_id", references)
    users = _keys(context, Dataset.USERS, "user_id", references)
    listens_bytes = BYTES_PER_ROW * sum(c.inspection.lines for c in candidates if c.file.dataset is Dataset.STREAMS)
    if context.lake.many_references(listens_bytes, context.lake.reference_bytes()):
        known = References(tracks, users, many=True)
    else:
        tracks, users = (kept.keep_many_rows(keys.distinct()) for keys in (tracks, users))
        known = References(tracks, users)
    streams = _judge_dataset(context, Dataset.STREAMS, candidates, known, kept)
    return replace(streams, candidates=_reject_reused_names(context, streams, ledger))


def _judge_dataset(
    context: Context, dataset: Dataset, candidates: Iterable[Candidate], references: References, kept: KeptFrames
) -> Judged:
    of_dataset = [c for c in candidates if c.file.dataset is dataset]
    contract = load_contract(dataset)
    judged = Judged(tuple(of_dataset))
    for form, members in _by_form([c for c in of_dataset if c.accepted], contract).items():
        checked = _read(context, contract, members, form, references, kept)
        day = listen_day(context.settings.kpi_time_zone)
        of_listens = day if dataset is Dataset.STREAMS else None
        counted = count_by_flags(checked.frame, by_lines=form.by_lines, day=of_listens)
        profiles = profile_files(counted, checked, by_lines=form.by_lines)
        found = [_judge_file(c, profiles.get(c.file_id, FileProfile()), checked, context.settings) for c in members]
        over = too_many_values(checked, {c.file_id: c.profile for c in found if c.accepted}, context.settings, day)
        found = [c.rejected(*over[c.file_id]) if c.file_id in over else c for c in found]
        checked = replace(checked, frame=checked.frame.where(F.col("lines") > 0))
        sampled = _with_samples(checked, [c for c in found if not c.accepted and c.profile.quarantined])
        rows = FileRows(dataset, frozenset(c.file_id for c in members), checked, form.by_lines)
        judged = Judged(updated(judged.candidates, [*found, *sampled]), (*judged.rows, rows))
    return judged


@dataclass(frozen=True)
class _Form:
    """What files must have in common to be read together. Without `by_lines`, records may go over several lines."""

    header: tuple[str, ...]
    quotes: bool
    by_lines: bool
    decomposed: bool


def _by_form(candidates: Iterable[Candidate], contract: Contract) -> dict[_Form, list[Candidate]]:
    forms: dict[_Form, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        seen = candidate.inspection
        by_lines = not (contract.newline_in_field and seen.open_quotes)
        forms[_Form(seen.header, seen.quotes, by_lines, seen.decomposed)].append(candidate)
    return forms


def _read(
    context: Context,
    contract: Contract,
    members: Sequence[Candidate],
    form: _Form,
    references: References,
    kept: KeptFrames,
) -> Checked:
    """Read, parse and check files once; of each row, Spark holds what later steps need."""
    sources = [candidate.source for candidate in members]
    if form.by_lines:
        records = without_carriage_returns(line_records(context.spark, sources))
    else:
        records = quoted_records(context.spark, sources)
    fields = split_fields(records, contract, form.header, quotes=form.quotes)
    checked = check(fields, contract, context.settings, decomposed=form.decomposed)
    if references.many:
        checked = replace(checked, frame=kept.keep_many_rows(checked.frame, StorageLevel.DISK_ONLY))
        with plans_for_a_pass(context.spark):
            references = references.named_by(checked.frame, kept.keep_many_rows)
    checked = flag_forgotten(replace(checked, frame=references.look_up(checked.frame)), context.forgotten)
    rows = checked.frame
    if contract.dataset is not Dataset.STREAMS:
        return replace(checked, frame=kept.keep_many_rows(rows))
    raw = F.when(checked.quarantined, F.col("raw")).alias("raw")  # most of listens are good
    narrow = rows.select("file_id", "block", "row", *contract.names, *FLAGS, raw)
    return replace(checked, frame=kept.keep_many_rows(narrow, StorageLevel.DISK_ONLY))


def _judge_file(candidate: Candidate, profile: FileProfile, checked: Checked, settings: Settings) -> Candidate:
    if profile.lines != candidate.inspection.lines:
        if change := change_of(candidate.file):
            return candidate.rejected(change, LEFT_ALONE[change])
        raise AuditError(
            f"{candidate.file.uri}: {profile.lines} lines were read, but {candidate.inspection.lines} counted before; "
            "this is a defect",
            code="conservation",
        )
    judged = replace(candidate, profile=profile).counted(
        rows=profile.rows,
        quarantined=profile.quarantined,
        forgotten=profile.forgotten,
        quarantined_by_reason=quarantine_reasons(profile, checked),
        # As rows, until they are counted as staged; what recovery goes by when the run dies before that.
        waiting=profile.waiting,
        unknown_users=profile.unknown_users,
    )
    against = verdict(profile, checked, settings)
    if against is None:
        return judged
    hint = rejection_hint(candidate.inspection, profile.by_reason, checked.contract)
    return judged.rejected(against[0], against[1] + hint)


def _with_samples(checked: Checked, rejected: Sequence[Candidate]) -> list[Candidate]:
    """Add some bad rows to each rejected file, which are read together."""
    if not rejected:
        return []
    shown = checked.frame.where(of_files(rejected) & checked.quarantined & ~F.col("is_header")).select(
        "file_id",
        F.monotonically_increasing_id().alias("row"),
        F.substring("raw", 1, _SAMPLE_LENGTH).alias("raw"),
        checked.reasons_column().alias("reasons"),
    )
    place = F.row_number().over(Window.partitionBy("file_id").orderBy("row"))
    first = shown.withColumn("place", place).where(F.col("place") <= _SAMPLES).orderBy("file_id", "place")
    samples = defaultdict(list)
    for row in first.collect():
        samples[row["file_id"]].append({"raw": row["raw"], "reasons": row["reasons"]})
    return [replace(candidate, samples=tuple(samples[candidate.file_id])) for candidate in rejected]


def _keys(context: Context, dataset: Dataset, column: str, judged: Judged) -> DataFrame:
    """Keys of the tracks or users that are known once this run's files are staged, each once or more."""
    table = context.lake.staged(dataset)
    parts = []
    if table.version() >= 0:
        replaced = of_files(judged.accepted(dataset))
        parts.append(table.read(context.spark).where(~replaced).select(column))
    new = judged.valid_rows(dataset)
    if new is not None:
        parts.append(new.select(column))
    return reduce(DataFrame.unionAll, parts)


def _reject_reused_names(context: Context, judged: Judged, ledger: Ledger) -> tuple[Candidate, ...]:
    """Reject a corrected streams file that shares no listen with what it replaces (`name_reused`)."""
    corrected = {
        c.file_id: (c, before)
        for c in judged.accepted(Dataset.STREAMS)
        if (before := ledger.accepted(c.file.name)) is not None and before.valid > 0
    }
    new = judged.valid_rows(Dataset.STREAMS)
    if context.settings.allow_name_reuse or not corrected or new is None:
        return judged.candidates
    staged = context.lake.staged(Dataset.STREAMS).read(context.spark).where(F.col("file_id").isin(list(corrected)))
    shared = new.select(*LISTEN).join(staged.select(*LISTEN), on=list(LISTEN), how="inner").select("file_id")
    sharing = {row["file_id"] for row in shared.distinct().collect()}
    return updated(
        judged.candidates,
        [
            candidate.rejected(
                "name_reused",
                f"shares no listen with the accepted version of {before.modified_at.isoformat()}: "
                "give the new file a name of its own, or set allow_name_reuse=true to replace the old rows",
            )
            for file_id, (candidate, before) in corrected.items()
            if file_id not in sharing
        ],
    )
