"""Judging: each readable file is profiled and accepted or rejected, before anything of it is written."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import reduce

from pyspark import StorageLevel
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from spark_app.config.contracts import Contract, Dataset, load_contract
from spark_app.errors import AuditError, NothingUsableError
from spark_app.ingest.candidates import Candidate, Group, accepted_rows, of_files, reject
from spark_app.ingest.csv_records import line_records, quoted_records, split_fields, without_carriage_returns
from spark_app.ingest.file_ledger import Ledger
from spark_app.ingest.file_profile import (
    MARKS,
    FileProfile,
    References,
    count_alike,
    dataset_quality,
    profile_files,
    quality,
    verdict,
)
from spark_app.ingest.listen_rows import narrow, widened, with_track_ids
from spark_app.ingest.staged_rows import listen_day
from spark_app.ingest.validation import Checked, check
from spark_app.run.context import Context
from spark_app.run.files import Status
from spark_app.spark.hash_join import MANY_ROWS, MOST_KEYS, hashes_differ

_SAMPLES = 5
_SAMPLE_LENGTH = 500


def judge_references(context: Context, candidates: list[Candidate]) -> list[Group]:
    """Profile every readable file of songs and users and decide; first of all, as streams are held against them."""
    with ThreadPoolExecutor() as pool:
        judged = pool.map(
            lambda dataset: _judge_dataset(context, dataset, candidates, References()), (Dataset.SONGS, Dataset.USERS)
        )
        return [group for of_dataset in judged for group in of_dataset]


def judge_streams(
    context: Context, candidates: list[Candidate], references: list[Group], ledger: Ledger
) -> list[Group]:
    """Profile every readable streams file and decide; `candidates` are all files, of `references` the groups are known.

    Raises:
        NothingUsableError: there are no songs or no users, neither new nor staged.
    """
    if candidates:
        _require_references(candidates, ledger)
    if not any(c.file.dataset is Dataset.STREAMS and c.accepted for c in candidates):
        return []
    known = _references(context, candidates, references, ledger)
    streams = _judge_dataset(context, Dataset.STREAMS, candidates, known)
    _refuse_reused_names(context, streams, ledger)
    return streams


def _judge_dataset(
    context: Context, dataset: Dataset, candidates: list[Candidate], references: References
) -> list[Group]:
    readable = [c for c in candidates if c.file.dataset is dataset and c.accepted]
    groups = []
    contract = load_contract(dataset)
    for form, members in _by_form(readable, contract).items():
        checked, kept = _checked(context, contract, members, form, references)
        apart = rows = checked.frame.where(F.col("lines") > 0)
        if dataset is Dataset.STREAMS:
            zone = context.settings.kpi_time_zone
            counted = widened(count_alike(kept, ["marks"], by_lines=True, day=listen_day(zone)))
            unmatched = ~F.col("known_track") | ~F.col("known_user")
            apart = rows.where(checked.quarantined | unmatched).persist(StorageLevel.DISK_ONLY)
        else:
            counted = count_alike(checked.frame, MARKS, by_lines=form.by_lines)
        profiles = profile_files(counted, checked, by_lines=form.by_lines)
        for candidate in members:
            candidate.profile = profiles.get(candidate.pending.file_id, FileProfile())
            _judge_file(context, candidate, checked)
        checked = replace(checked, frame=rows)
        _add_samples(checked, apart, [candidate for candidate in members if not candidate.accepted])
        groups.append(Group(dataset, tuple(members), checked, apart, (apart, kept), form.by_lines, references))
    if readable:
        context.result.quality[str(dataset)] = dataset_quality([c.profile for c in readable], contract)
    return groups


@dataclass(frozen=True)
class _Form:
    """What files must have in common to be read together. Without `by_lines`, records may go over several lines."""

    header: tuple[str, ...]
    quotes: bool
    by_lines: bool


def _by_form(candidates: Iterable[Candidate], contract: Contract) -> dict[_Form, list[Candidate]]:
    groups: dict[_Form, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        seen = candidate.inspection
        by_lines = not (contract.newline_in_field and seen.open_quotes)
        groups[_Form(seen.header, seen.quotes, by_lines)].append(candidate)
    return groups


def _checked(
    context: Context, contract: Contract, members: Sequence[Candidate], form: _Form, references: References
) -> tuple[Checked, DataFrame]:
    """Read, parse and check files once; what later steps need of each row is kept until they are done with it.

    Returns:
        The rows as checked, and the frame that holds what they come from, to be given back in the end.
    """
    sources = [candidate.source for candidate in members]
    if form.by_lines:
        records = without_carriage_returns(line_records(context.spark, sources))
    else:
        records = quoted_records(context.spark, sources)
    checked = check(split_fields(records, contract, form.header, quotes=form.quotes), contract, context.settings)
    if contract.dataset is not Dataset.STREAMS:
        kept = references.look_up(checked.frame).persist()
        return replace(checked, frame=kept), kept
    kept = narrow(references.look_up(checked.frame), checked).persist(StorageLevel.DISK_ONLY)
    return replace(checked, frame=widened(kept)), kept


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
        reject(candidate, *against)


def _add_samples(checked: Checked, rows: DataFrame, refused: list[Candidate]) -> None:
    """Show some bad rows of each refused file in its outcome; all files are read once."""
    if not refused:
        return
    shown = rows.where(of_files(refused) & checked.quarantined & ~F.col("is_header")).select(
        "file_id",
        F.monotonically_increasing_id().alias("row"),
        F.substring("raw", 1, _SAMPLE_LENGTH).alias("raw"),
        checked.reasons_column().alias("reasons"),
    )
    place = F.row_number().over(Window.partitionBy("file_id").orderBy("row"))
    samples = shown.withColumn("place", place).where(F.col("place") <= _SAMPLES).orderBy("file_id", "place").collect()
    for candidate in refused:
        mine = [row for row in samples if row["file_id"] == candidate.pending.file_id]
        candidate.outcome.samples = [{"raw": row["raw"], "reasons": row["reasons"]} for row in mine]


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


def _references(context: Context, candidates: list[Candidate], groups: list[Group], ledger: Ledger) -> References:
    """Keys of the tracks and users known once this run's files are staged."""
    tracks = _keys(context, Dataset.SONGS, "track_id", groups)
    users = _keys(context, Dataset.USERS, "user_id", groups).persist()
    if not _numbers_pay(candidates, ledger):
        return References(tracks.persist(), users)
    numbered = tracks.select("track_id", F.row_number().over(Window.orderBy("track_id")).alias("track_no")).persist()
    return References(numbered, users, numbers=hashes_differ(numbered, "track_id"))


def _keys(context: Context, dataset: Dataset, column: str, groups: list[Group]) -> DataFrame:
    table = context.lake.staged(dataset)
    replaced = [c.pending.file_id for g in groups if g.dataset is dataset for c in g.candidates if c.accepted]
    parts = []
    if table.version() >= 0:
        parts.append(table.read(context.spark).where(~F.col("file_id").isin(replaced)).select(column))
    new = accepted_rows(groups, dataset)
    if new is not None:
        parts.append(new.select(column))
    return reduce(DataFrame.unionAll, parts).distinct()


def _numbers_pay(candidates: list[Candidate], ledger: Ledger) -> bool:
    """Whether listens are so many that to number the tracks pays, and tracks not too many to be at hand everywhere."""
    readable = [c for c in candidates if c.accepted]
    listens = sum(c.inspection.lines for c in readable if c.file.dataset is Dataset.STREAMS)
    songs = sum(c.inspection.lines for c in readable if c.file.dataset is Dataset.SONGS)
    songs += sum(v.valid for v in ledger.with_status(Status.ACCEPTED) if v.dataset is Dataset.SONGS)
    return listens >= MANY_ROWS and songs <= MOST_KEYS


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
    new = accepted_rows(groups, Dataset.STREAMS)
    if not corrected or new is None:
        return
    keys = ["file_id", "user_id", "track_id", "listen_time"]
    staged = context.lake.staged(Dataset.STREAMS).read(context.spark).where(F.col("file_id").isin(list(corrected)))
    listens = with_track_ids(new, groups[0].references).select(*keys)
    shared = listens.join(staged.select(*keys), on=keys, how="inner").select("file_id").distinct().collect()
    for file_id in set(corrected) - {row["file_id"] for row in shared}:
        before = ledger.accepted(corrected[file_id].file.name)
        reject(
            corrected[file_id],
            "name_reused",
            f"shares no listen with the accepted version of {before.modified_at.isoformat() if before else '?'}: "
            "give the new file a name of its own, or set allow_name_reuse=true to replace the old rows",
        )
