"""What became of a run's files, from the application's `result.json` into the ledger of submitted files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kpi_common.log import log, warn
from kpi_pipeline.files.claims import FAILED, PROCESSING, REJECTED, SUCCESS, ClaimLedger, Entry

NOT_MENTIONED = "not_mentioned"
REJECTIONS = ("rejected", "rejected_before")
# superseded, withdrawn_before: the lake holds a newer version, or this one was withdrawn by hand.
IN_THE_LAKE = ("accepted", "already_staged", "superseded", "withdrawn_before")


@dataclass
class FileOutcomes:
    """Files by what was written for them; rejected ones and those set aside with their reasons."""

    succeeded: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)
    not_ours: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return vars(self)

    def note(self, entry: Entry) -> None:
        """Count a file as its entry says."""
        if entry.status == SUCCESS:
            self.succeeded.append(entry.filename)
        elif entry.status == REJECTED:
            self.rejected[entry.filename] = entry.reason
        else:
            self.failed[entry.filename] = entry.reason


def mark_processed(
    ledger: ClaimLedger, run_id: str, files: Iterable[Mapping[str, Any]], result: Mapping[str, Any]
) -> FileOutcomes:
    """Write what a job that succeeded did with each file of the run manifest. Doing it again changes nothing.

    A file that the result doesn't mention is `failed`: nothing says that it was taken in.
    """
    done = _by_name(result)
    outcomes = FileOutcomes()
    for entry in _claimed(ledger, run_id, files, outcomes):
        status, reason, rows = _verdict(done.get(entry.filename))
        _settle(ledger, entry, outcomes, status, reason, rows=rows)
    log("marked", succeeded=len(outcomes.succeeded), failed=len(outcomes.failed), rejected=len(outcomes.rejected))
    return outcomes


def mark_failed(
    ledger: ClaimLedger,
    run_id: str,
    files: Iterable[Mapping[str, Any]],
    result: Mapping[str, Any] | None,
    reason: str,
) -> FileOutcomes:
    """Give the run's claims back with a reason; what the job rejected is rejected. Doing it again changes nothing.

    The next run takes them again. Which file killed a job is found by the application (`spark_app.ingest.trial`).

    Args:
        ledger: of the files.
        run_id: whose claims.
        files: of the run manifest.
        result: of the application, if it wrote one.
        reason: what the run failed of.
    """
    done = _by_name(result) if result is not None else {}
    outcomes = FileOutcomes()
    for entry in _claimed(ledger, run_id, files, outcomes):
        file = done.get(entry.filename)
        if file is not None and file["outcome"] in REJECTIONS:
            _settle(ledger, entry, outcomes, REJECTED, _reason(file))
        else:
            _settle(ledger, entry, outcomes, FAILED, reason)
    log("claims given back", failed=len(outcomes.failed), rejected=len(outcomes.rejected))
    return outcomes


def reject(
    ledger: ClaimLedger, run_id: str, files: Iterable[Mapping[str, Any]], reasons: Mapping[str, str]
) -> FileOutcomes:
    """Reject claimed files before any job, with the reasons by name; the others keep their claim."""
    outcomes = FileOutcomes()
    for entry in _claimed(ledger, run_id, files, outcomes):
        if entry.filename in reasons:
            _settle(ledger, entry, outcomes, REJECTED, reasons[entry.filename])
    return outcomes


def _claimed(
    ledger: ClaimLedger, run_id: str, files: Iterable[Mapping[str, Any]], outcomes: FileOutcomes
) -> Iterable[Entry]:
    """Yield the ledger's entries that this run has claimed, with the content that its manifest names."""
    files = list(files)
    entries = ledger.read(file["name"] for file in files)
    for file in files:
        entry = entries.get(file["name"])
        if entry is None or entry.run_id != run_id or entry.etag != file["etag"]:
            outcomes.not_ours.append(file["name"])
        elif entry.status == PROCESSING:
            yield entry
        else:  # done by an earlier try of this task
            outcomes.note(entry)


def _settle(
    ledger: ClaimLedger, entry: Entry, outcomes: FileOutcomes, status: str, reason: str, **changes: Any
) -> None:
    if not ledger.settle(entry, status, reason=reason, **changes):
        warn("another run has claimed this file meanwhile; its entry is left alone", file=entry.filename)
        outcomes.not_ours.append(entry.filename)
    elif status == SUCCESS:
        outcomes.succeeded.append(entry.filename)
    elif status == REJECTED:
        outcomes.rejected[entry.filename] = reason
        warn("file rejected", file=entry.filename, reason=reason)
    else:
        outcomes.failed[entry.filename] = reason


def _by_name(result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return what the result says of files, by name."""
    return {file["name"]: file for file in (*result.get("passed_over", []), *result["files"])}


def _verdict(file: Mapping[str, Any] | None) -> tuple[str, str, int | None]:
    """Return status, reason and rows for a file of a job that succeeded."""
    if file is None:
        return FAILED, f"{NOT_MENTIONED}: the job's result doesn't mention this file", None
    outcome = file["outcome"]
    if outcome in IN_THE_LAKE:
        return SUCCESS, "" if outcome == "accepted" else outcome, file.get("rows")
    if outcome in REJECTIONS:
        return REJECTED, _reason(file), file.get("rows") or None
    return FAILED, _reason(file), None  # missing, changed, deferred: the next listing takes it as it is then


def _reason(file: Mapping[str, Any]) -> str:
    parts = [str(part) for part in (file.get("reason") or file["outcome"], file.get("message")) if part]
    return ": ".join(parts)
