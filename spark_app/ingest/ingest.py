"""Taking files in: which are chosen, what a look into them shows, and what becomes of each in the ledger.

Order of a run: state (open) → quarantine → staged → ledger (settled). Whatever is killed in between leaves open files,
which the next run settles.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kpi_common.contracts import Dataset, load_contract
from kpi_common.log import log, warn
from spark_app.config.settings import Settings
from spark_app.errors import AuditError
from spark_app.ingest.candidates import Candidate
from spark_app.ingest.discovery import LEFT_ALONE, Listing, change_of
from spark_app.ingest.file_ledger import Decision, Ledger, LedgerFolder
from spark_app.ingest.file_profile import dataset_quality
from spark_app.ingest.preflight import Inspection, inspect_files
from spark_app.ingest.trial import Batch
from spark_app.run.context import Context
from spark_app.run.files import UNREAD, FileVersion, InputFile, Status
from spark_app.run.result import FileOutcome, RunResult
from spark_app.run.state import StateFile


@dataclass(frozen=True)
class Choice:
    """The files that a run takes in, how many it skips by outcome, and these files themselves."""

    files: tuple[InputFile, ...] = ()
    skipped_counts: Counter[str] = field(default_factory=Counter)
    skipped: tuple[dict[str, Any], ...] = ()


def choose_files(listing: Listing, ledger: Ledger, settings: Settings) -> Choice:
    """Leave out what is done, and what is over max_files or max_bytes (songs and users come first)."""
    known = [replace(file, etag=file.etag or ledger.etag_by_stat(file)) for file in listing.files]
    songs = [file for file in known if file.dataset is Dataset.SONGS]
    songs_changed = any(file.etag is None or ledger.decide(file) is Decision.NEW for file in songs)
    chosen, skipped = _new_files(known, ledger, songs_changed=songs_changed)
    ordered = sorted(chosen, key=lambda file: (file.dataset is Dataset.STREAMS, file.order))
    taken = ordered[: _within_limits(ordered, settings)]
    deferred = [_skipped(file, "deferred") for file in ordered[len(taken) :]]
    if deferred:
        log("the rest of the backlog waits for the next run", files=len(deferred))
    return _choice((replace(f, etag=None) if f.etag == UNREAD else f for f in taken), [*skipped, *deferred])


def inspect_batch(context: Context, batch: Batch, ledger: Ledger) -> tuple[list[Candidate], Choice]:
    """Look into files, and open a version of each that is new, as its content shows where that was not known before.

    Returns:
        The files to be judged, and a choice with those that turned out to be none.
    """
    inspections = _look_into(context, batch)
    unknown = {file.name for file in batch.files if file.etag is None}
    found = [inspection.file for inspection in inspections]
    songs_changed = any(
        file.dataset is Dataset.SONGS and (file.name not in unknown or ledger.decide(file) is Decision.NEW)
        for file in found
    )
    _, skipped = _new_files([f for f in found if f.name in unknown], ledger, songs_changed=songs_changed)
    done = {entry["name"] for entry in skipped}
    candidates = [_opened(context, seen, ledger) for seen in inspections if seen.file.name not in done]
    log("files to take in", files=len(candidates), bytes=sum(c.file.size for c in candidates))
    return candidates, _choice((), skipped)


def open_versions(state: StateFile, ledger: Ledger, candidates: Iterable[Candidate]) -> None:
    """Note which versions are going to be staged; until they are settled, the next run takes them up."""
    opened = tuple(candidate.version for candidate in candidates if candidate.accepted)
    state.save("open", open=opened, next_file_id=ledger.next_file_id, judging=None)


def settle_files(
    context: Context, folder: LedgerFolder, ledger: Ledger, candidates: Sequence[Candidate]
) -> list[Candidate]:
    """Record what became of the candidates.

    Raises:
        AuditError: rows of a file have no fate, or two.
    """
    settled = [candidate if candidate.left_alone else _settled(context, candidate) for candidate in candidates]
    folder.settle(ledger, [c.version for c in settled if not c.left_alone], "settle")
    return settled


def record_listing(result: RunResult, listing: Listing, choice: Choice) -> None:
    """Put into the run's result what is known of files before any is read."""
    result.ignored += listing.ignored
    result.record(FileOutcome(f, "missing", message="named by the manifest, but gone") for f in listing.missing)
    result.record(
        FileOutcome(f, "changed", message="its content changed after the manifest was made; list it again")
        for f in listing.changed
    )
    record_skipped(result, choice)


def record_skipped(result: RunResult, choice: Choice) -> None:
    """Put skipped files into the run's result; those that are staged already only where a manifest names them."""
    result.skipped_counts += choice.skipped_counts
    named = result.manifest is not None
    result.skipped += [file for file in choice.skipped if named or file["outcome"] != Decision.ALREADY_STAGED]
    for file in choice.skipped:
        if file["outcome"] == Decision.SUPERSEDED:
            warn("file skipped", file=file["name"], reason=file["reason"], detail=file["message"])


def record_files(result: RunResult, candidates: Iterable[Candidate]) -> None:
    """Put candidates into the run's result, as far as they have come."""
    result.record(candidate.outcome() for candidate in candidates)


def record_quality(result: RunResult, candidates: Sequence[Candidate]) -> None:
    """Put the quality of all rows that were read into the run's result."""
    for dataset in Dataset:
        profiles = [c.profile for c in candidates if c.file.dataset is dataset and c.profile.rows]
        if profiles:
            result.quality[str(dataset)] = dataset_quality(profiles, load_contract(dataset))


def _new_files(
    files: Iterable[InputFile], ledger: Ledger, *, songs_changed: bool
) -> tuple[list[InputFile], list[dict[str, Any]]]:
    """Divide files into new ones (also: of unknown content) and entries of those that are to be skipped."""
    new, skipped = [], []
    for file in files:
        decision = Decision.NEW if file.etag is None else ledger.decide(file, songs_changed=songs_changed)
        if decision is Decision.NEW:
            new.append(file)
        elif decision is Decision.SUPERSEDED:
            skipped.append(_skipped(file, decision, *_why_superseded(file, ledger.accepted(file.name))))
        else:
            newest = ledger.of(file.name)[-1]
            skipped.append(_skipped(file, decision, newest.reason, newest.message))
    return new, skipped


def _why_superseded(file: InputFile, accepted: FileVersion | None) -> tuple[str, str]:
    there = "" if accepted is None else f" of {accepted.modified_at.isoformat()}"
    return "older_than_accepted", (
        f"its time is {file.modified_at.isoformat()}, before that of the accepted version{there}; to take it anyway, "
        f"give it a newer time (touch), or `files withdraw {file.name}` and run again"
    )


def _skipped(file: InputFile, outcome: str, reason: str | None = None, message: str | None = None) -> dict[str, Any]:
    return {"name": file.name, "outcome": str(outcome), "reason": reason, "message": message}


def _choice(files: Iterable[InputFile], skipped: Sequence[dict[str, Any]]) -> Choice:
    counts = Counter(entry["outcome"] for entry in skipped)
    return Choice(tuple(files), counts, tuple(skipped))


def _within_limits(files: Sequence[InputFile], settings: Settings) -> int:
    """Return how many of these files are taken, the first in any case."""
    size = 0
    for number, file in enumerate(files):
        size += file.size
        if number and (number >= settings.max_files or size > settings.max_bytes):
            return number
    return len(files)


def _look_into(context: Context, batch: Batch) -> list[Inspection]:
    if batch.condemned:
        message = f"{batch.group.deaths} runs died while they read this file alone; `files retry` to try it once more"
        files = [replace(file, etag=file.etag or UNREAD) for file in batch.files]
        return [Inspection(file, reason="run_died", message=message) for file in files]
    inspections = inspect_files(list(batch.files), context.start_spark, context.settings)
    return [_unless_changed(inspection) for inspection in inspections]


def _unless_changed(inspection: Inspection) -> Inspection:
    """Let a file alone that changed while it was looked into; in S3, what is read is one version of it."""
    file = inspection.file
    if file.stat is None and inspection.reason != "unreadable_file":
        return inspection
    change = change_of(file)
    return replace(inspection, reason=change, message=LEFT_ALONE[change]) if change else inspection


def _opened(context: Context, inspection: Inspection, ledger: Ledger) -> Candidate:
    candidate = Candidate(inspection, ledger.open(inspection.file, context.run_id, context.now))
    return candidate if inspection.reason is None else candidate.rejected(inspection.reason, inspection.message or "")


def _settled(context: Context, candidate: Candidate) -> Candidate:
    version = candidate.version
    fates = version.valid + version.duplicates + version.quarantined + version.forgotten
    if candidate.accepted and version.rows != fates:
        raise AuditError(
            f"{candidate.file.uri}: {version.rows} rows were read, but {version.valid} valid + {version.duplicates} "
            f"duplicates + {version.quarantined} quarantined + {version.forgotten} of forgotten users",
            code="conservation",
        )
    return candidate.counted(status=Status.ACCEPTED if candidate.accepted else Status.REJECTED, updated_at=context.now)
