"""What became of a run's files, from the application's `result.json` into the ledger of submitted files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jsonschema import Draft202012Validator

from kpi_common.conf_files import load_schema
from kpi_common.log import log, warn
from kpi_common.s3_files import S3Storage
from kpi_pipeline.errors import PipelineError
from kpi_pipeline.files.claims import FAILED, PROCESSING, REJECTED, SUCCESS, ClaimLedger, Entry
from kpi_pipeline.pipeline_settings import PipelineSettings

SET_ASIDE = "too_many_failures"
DEFERRED = "deferred"


@dataclass
class Outcome:
    """Files by what was written for them; rejected ones and those set aside with their reasons."""

    succeeded: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)
    not_ours: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return vars(self)


def result_uri(settings: PipelineSettings, spark_run_id: str) -> str:
    """Return where the application puts a run's result."""
    return f"{settings.lake}/runs/{spark_run_id}/result.json"


def read_result(buckets: S3Storage, settings: PipelineSettings, spark_run_id: str) -> dict[str, Any] | None:
    """Return the application's result, or None where it wrote none.

    Raises:
        PipelineError: it is not what `conf/schemas/run_result.schema.json` says.
    """
    uri = result_uri(settings, spark_run_id)
    data = buckets.read(uri)
    if data is None:
        return None
    try:
        result: dict[str, Any] = json.loads(data)
    except ValueError as error:
        raise PipelineError(f"{uri}: not valid JSON: {error}") from error
    problem = next(iter(Draft202012Validator(load_schema("run_result")).iter_errors(result)), None)
    if problem is not None:
        raise PipelineError(f"{uri} breaks its schema at {problem.json_path}: {problem.message}")
    return result


def mark_processed(
    ledger: ClaimLedger, run_id: str, files: Iterable[Mapping[str, Any]], result: Mapping[str, Any]
) -> Outcome:
    """Write what a job that succeeded did with each file of the run manifest. Doing it again changes nothing."""
    done = _by_name(result)
    outcome = Outcome()
    for entry in _claimed(ledger, run_id, files, outcome):
        verdict, reason, rows = _verdict(done.get(entry.filename))
        _settle(ledger, entry, outcome, verdict, reason, rows=rows, attempts=0)
    log("marked", succeeded=len(outcome.succeeded), failed=len(outcome.failed), rejected=len(outcome.rejected))
    return outcome


def mark_failed(
    ledger: ClaimLedger,
    run_id: str,
    files: Iterable[Mapping[str, Any]],
    result: Mapping[str, Any] | None,
    reason: str,
    count_after: int | None,
) -> Outcome:
    """Give the run's claims back with a reason; what the job rejected is rejected. Doing it again changes nothing.

    Args:
        ledger: of the files.
        run_id: whose claims.
        files: of the run manifest.
        result: of the application, if it wrote one.
        reason: what the run failed of.
        count_after: so many failed jobs set a file aside; None: it wasn't the job that failed, so it doesn't count.
    """
    done = _by_name(result) if result is not None else {}
    outcome = Outcome()
    for entry in _claimed(ledger, run_id, files, outcome):
        told = done.get(entry.filename)
        if told is not None and told["outcome"] in ("rejected", "rejected_before"):
            _settle(ledger, entry, outcome, REJECTED, _reason(told))
            continue
        attempts = entry.attempts + (0 if count_after is None else 1)
        if count_after is not None and attempts >= count_after:
            why = f"{SET_ASIDE}: set aside after {attempts} failed jobs; the last one: {reason}"
            _settle(ledger, entry, outcome, REJECTED, why, attempts=attempts)
        else:
            _settle(ledger, entry, outcome, FAILED, reason, attempts=attempts)
    log("claims given back", failed=len(outcome.failed), rejected=len(outcome.rejected))
    return outcome


def reject(ledger: ClaimLedger, run_id: str, files: Iterable[Mapping[str, Any]], reasons: Mapping[str, str]) -> Outcome:
    """Reject claimed files before any job, with the reasons by name; the others keep their claim."""
    outcome = Outcome()
    for entry in _claimed(ledger, run_id, files, outcome):
        if entry.filename in reasons:
            _settle(ledger, entry, outcome, REJECTED, reasons[entry.filename])
    return outcome


def _claimed(ledger: ClaimLedger, run_id: str, files: Iterable[Mapping[str, Any]], outcome: Outcome) -> Iterable[Entry]:
    """Yield the ledger's entries that this run has claimed, with the content that its manifest names."""
    files = list(files)
    entries = ledger.read(file["name"] for file in files)
    for file in files:
        entry = entries.get(file["name"])
        if entry is None or entry.run_id != run_id or entry.etag != file["etag"]:
            outcome.not_ours.append(file["name"])
        elif entry.status == PROCESSING:
            yield entry
        else:  # done by an earlier try of this task
            _note(outcome, entry)


def _note(outcome: Outcome, entry: Entry) -> None:
    if entry.status == SUCCESS:
        outcome.succeeded.append(entry.filename)
    elif entry.status == REJECTED:
        outcome.rejected[entry.filename] = entry.reason
    else:
        outcome.failed[entry.filename] = entry.reason


def _settle(ledger: ClaimLedger, entry: Entry, outcome: Outcome, status: str, reason: str, **changes: Any) -> None:
    if not ledger.settle(entry, status, reason=reason, **changes):
        warn("another run has claimed this file meanwhile; its entry is left alone", file=entry.filename)
        outcome.not_ours.append(entry.filename)
        return
    if status == SUCCESS:
        outcome.succeeded.append(entry.filename)
    elif status == REJECTED:
        outcome.rejected[entry.filename] = reason
        warn("file rejected", file=entry.filename, reason=reason)
    else:
        outcome.failed[entry.filename] = reason


def _by_name(result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return what the result tells of files by name; those that are staged already are not told of."""
    told: dict[str, Mapping[str, Any]] = {file["name"]: file for file in result.get("passed_over", [])}
    told.update({file["name"]: file for file in result["files"]})
    return told


def _verdict(file: Mapping[str, Any] | None) -> tuple[str, str, int | None]:
    """Return status, reason and rows for a file of a job that succeeded."""
    if file is None:
        return SUCCESS, "already staged", None
    outcome = file["outcome"]
    if outcome == "accepted":
        return SUCCESS, "", file["rows"]
    if outcome in ("rejected", "rejected_before"):
        return REJECTED, _reason(file), file.get("rows") or None
    if outcome in ("missing", "changed", DEFERRED):
        return FAILED, _reason(file), None  # the next listing takes it as it is then
    # superseded, withdrawn_before: the lake holds a newer version, or was told by hand not to hold it
    return SUCCESS, outcome, None


def _reason(file: Mapping[str, Any]) -> str:
    parts = [str(part) for part in (file.get("reason") or file["outcome"], file.get("message")) if part]
    return ": ".join(parts)
