"""Ingest: new files are chosen, inspected, judged and staged, in steps that can all be done again.

Order: ledger (pending) → quarantine → staged → ledger (settled). Whatever is killed in between leaves pending files,
which the next run takes up again under the same file_id.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from kpi_common.log import log
from spark_app.config.contracts import Dataset, load_contract
from spark_app.ingest.acceptance import judge_references, judge_streams
from spark_app.ingest.candidates import Candidate, reject
from spark_app.ingest.discovery import Listing
from spark_app.ingest.file_ledger import Decision, Ledger
from spark_app.ingest.preflight import Inspection, inspect_files
from spark_app.ingest.write_staged import stage
from spark_app.run.context import Context
from spark_app.run.files import InputFile
from spark_app.run.result import FileOutcome


def ingest(
    context: Context, listing: Listing, ledger: Ledger, songs_staged: Callable[[int], object]
) -> Callable[[], None]:
    """Take in all new files of a listing; outcomes go into the result. For `songs_staged` see `stage`.

    Returns:
        What is still to be done before anything is published; see `stage`.

    Raises:
        NothingUsableError: there are no songs or no users, neither new nor staged.
        AuditError: counts that must agree do not.
    """
    with context.steps.step("choose files"):
        chosen = _choose(context, listing, ledger)
    if not chosen:
        return _nothing
    references = [file for file in chosen if file.dataset is not Dataset.STREAMS]
    streams = [file for file in chosen if file.dataset is Dataset.STREAMS]
    # Spark starts while files are looked at; should there be nothing new in them, only that was for nothing.
    # The streams, which are the most, are looked at while songs and users are judged.
    with ThreadPoolExecutor(2) as beside:
        started = beside.submit(context.start_spark)
        seen = beside.submit(_look_at, context, streams)
        with context.steps.step("inspect files"):
            candidates = _open(context, references, _look_at(context, references), ledger)
            if not candidates:
                seen.result()
        started.result()
        with context.steps.step("validate"):
            groups = judge_references(context, candidates)
            songs_changed = any(c.file.dataset is Dataset.SONGS for c in candidates)
            candidates += _open(context, streams, seen.result(), ledger, songs_changed=songs_changed)
            groups += judge_streams(context, candidates, groups, ledger)
    if not candidates:
        return _nothing
    with context.steps.step("stage"):
        return stage(context, candidates, groups, ledger, songs_staged)


def _nothing() -> None:
    pass


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
        names = {file.name for file in retried}
        result.passed_over = [told for told in result.passed_over if told["name"] not in names]
        new += retried
    return _within_limits(context, sorted(new, key=lambda f: (f.dataset is Dataset.STREAMS, f.order)))


def _is_new(context: Context, file: InputFile, ledger: Ledger) -> bool:
    decision = ledger.decide(file)
    if decision is Decision.NEW:
        return True
    names = {Decision.STILL_REJECTED: "rejected_before", Decision.STILL_WITHDRAWN: "withdrawn_before"}
    outcome = names.get(decision, str(decision))
    context.result.unlisted[outcome] += 1
    if decision is not Decision.ALREADY_STAGED:
        newest = ledger.of(file.name)[-1]
        told = {"name": file.name, "outcome": outcome, "reason": newest.reason, "message": newest.message}
        context.result.passed_over.append(told)
    return False


def _within_limits(context: Context, files: list[InputFile]) -> list[InputFile]:
    taken: list[InputFile] = []
    size = 0
    for number, file in enumerate(files):
        size += file.size
        if taken and (len(taken) >= context.settings.max_files or size > context.settings.max_bytes):
            context.result.unlisted["deferred"] += len(files) - number
            context.result.passed_over += [
                {"name": left.name, "outcome": "deferred", "reason": None, "message": None} for left in files[number:]
            ]
            log("the rest of the backlog waits for the next run", files=len(files) - number)
            break
        taken.append(file)
    return taken


def _look_at(context: Context, files: list[InputFile]) -> list[Inspection]:
    return inspect_files(files, context.start_spark, context.settings.inspect_on_driver_bytes)


def _open(
    context: Context,
    files: list[InputFile],
    inspections: list[Inspection],
    ledger: Ledger,
    *,
    songs_changed: bool = False,
) -> list[Candidate]:
    """Open a pending version of each file that is new, as its etag shows where that was not known before."""
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
            reject(candidate, inspection.reason, inspection.message or "")
        candidates.append(candidate)
    context.result.files += [candidate.outcome for candidate in candidates]
    if candidates:
        log("files to take in", files=len(candidates), bytes=sum(c.file.size for c in candidates))
    return candidates


def _header_notes(inspection: Inspection) -> list[str]:
    known = load_contract(inspection.file.dataset).names
    extra = [name for name in inspection.header if name not in known]
    return [f"ignored columns: {', '.join(extra)}"] if extra else []
