"""The result of a run: what happened to each file, counts, steps; written as `runs/<run_id>/result.json`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from kpi_common.files import join, storage_for
from kpi_common.log import warn
from spark_app import __version__
from spark_app.errors import LockLostError
from spark_app.lake.tables import Lake
from spark_app.run.files import FileVersion, InputFile

COUNTS = ("rows", "valid", "duplicates", "quarantined", "forgotten", "waiting", "unknown_users")


@dataclass(frozen=True)
class AuditResult:
    """One check: passed if no row breaks it; `detail` shows some rows that do."""

    check: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class FileOutcome:
    """What this run did with one file."""

    file: InputFile
    outcome: str
    reason: str | None = None
    message: str | None = None
    version: FileVersion | None = None
    notes: list[str] = field(default_factory=list)
    quality: dict[str, Any] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return the file's entry in the result."""
        counts = {name: getattr(self.version, name) if self.version else 0 for name in COUNTS}
        return {
            "dataset": str(self.file.dataset),
            "name": self.file.name,
            "path": self.file.uri,
            "etag": self.file.etag,
            "size": self.file.size,
            "modified_at": self.file.modified_at.isoformat(),
            "outcome": self.outcome,
            "reason": self.reason,
            "message": self.message,
            **counts,
            "quarantined_by_reason": dict(self.version.quarantined_by_reason) if self.version else {},
            "notes": self.notes,
            "quality": self.quality,
            "samples": self.samples,
        }


@dataclass
class RunResult:
    """Gathers what happens during a run."""

    run_id: str
    command: str
    lake: str
    input: str | None
    started_at: datetime
    status: str = "succeeded"
    exit_code: int = 0
    error: dict[str, str] | None = None
    files: dict[str, FileOutcome] = field(default_factory=dict)
    skipped_counts: Counter[str] = field(default_factory=Counter)
    skipped: list[dict[str, Any]] = field(default_factory=list)
    manifest: dict[str, str | None] | None = None
    ignored: list[str] = field(default_factory=list)
    quality: dict[str, Any] = field(default_factory=dict)
    dirty_dates: list[str] = field(default_factory=list)
    audit: list[AuditResult] = field(default_factory=list)
    tables: dict[str, int] = field(default_factory=dict)
    export: dict[str, Any] | None = None
    cost: dict[str, Any] | None = None
    forgotten: dict[str, Any] | None = None
    warnings: list[str] = field(default_factory=list)

    def warn(self, text: str) -> None:
        """Add a warning, to the log too."""
        warn(text)
        self.warnings.append(text)

    def record(self, outcomes: Iterable[FileOutcome]) -> None:
        """Add outcomes of files, in the place of what was known of these before."""
        self.files.update((outcome.file.name, outcome) for outcome in outcomes)

    @property
    def outcomes(self) -> Counter[str]:
        """How many files had which outcome."""
        return Counter(file.outcome for file in self.files.values()) + self.skipped_counts

    def as_json(self, finished_at: datetime, steps: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the content of result.json (schema `conf/schemas/run_result.schema.json`)."""
        files = list(self.files.values())
        names = sorted({str(f.file.dataset) for f in files})
        by_dataset = {name: _totals([f for f in files if f.file.dataset == name]) for name in names}
        streams = by_dataset.get("streams", _totals([]))
        return {
            "schema_version": 1,
            "run_id": self.run_id,
            "command": self.command,
            "status": self.status,
            "exit_code": self.exit_code,
            "application_version": __version__,
            "started_at": self.started_at.isoformat(),
            "finished_at": finished_at.isoformat(),
            "seconds": round((finished_at - self.started_at).total_seconds(), 3),
            "input": self.input,
            "lake": self.lake,
            "manifest": self.manifest,
            "error": self.error,
            "files": [f.as_json() for f in files],
            "passed_over": self.skipped,
            "ignored_files": self.ignored,
            "totals": {"files": dict(self.outcomes), **streams},
            "totals_by_dataset": by_dataset,
            "quality": self.quality,
            "dirty_dates": self.dirty_dates,
            "audit": [vars(check) for check in self.audit],
            "steps": steps,
            "cost": self.cost,
            "tables": self.tables,
            "export": self.export,
            "forgotten": self.forgotten,
            "warnings": self.warnings,
        }


def write_result(lake: Lake, content: dict[str, Any]) -> str:
    """Write `runs/<run_id>/result.json` and return its URI; without the lock only if there is none of this run id."""
    path = f"runs/{content['run_id']}/result.json"
    data = json.dumps(content, indent=1, ensure_ascii=False, default=str).encode()
    uri = join(lake.uri, path)
    try:
        lake.write(path, data)
    except LockLostError:
        if storage_for(uri).write_if(uri, data, None) is None:
            raise
    return uri


def delete_old_results(lake: Lake, limit: datetime) -> None:
    """Delete the results of runs, with samples of bad rows in them, that were written before."""
    for stored in list(storage_for(lake.uri).list_files(join(lake.uri, "runs"))):
        if stored.modified_at < limit:
            lake.delete_folder(f"runs/{stored.relative.partition('/')[0]}")


def _totals(files: list[FileOutcome]) -> dict[str, Any]:
    accepted = [f.version for f in files if f.version is not None and f.outcome == "accepted"]
    reasons: Counter[str] = Counter()
    for version in accepted:
        reasons.update(version.quarantined_by_reason)
    return {name: sum(getattr(version, name) for version in accepted) for name in COUNTS} | {
        "quarantined_by_reason": dict(reasons.most_common())
    }
