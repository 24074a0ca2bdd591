"""Files that are done leave the source: copied, checked, then deleted; to be interrupted and done again at any point.

What is to move is read from the ledger and the source, not from one run: so what an interrupted run left is moved by
the next. A file whose content has changed since it was processed stays where it is: it is a new one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from kpi_common.log import log, warn
from kpi_common.s3_files import ETAG_NOTE, S3Storage
from kpi_pipeline.errors import MovedAwayError
from kpi_pipeline.files.arrivals import STREAMS, SourceFile
from kpi_pipeline.files.claims import REJECTED, SUCCESS, ClaimLedger, Entry
from kpi_pipeline.pipeline_settings import PipelineSettings

AT_ONCE = 8
REASON_SUFFIX = ".reason.json"
SOURCE_NAME = "source-name"
SOURCE_MODIFIED = "source-modified-at"


@dataclass
class Moved:
    """What was moved, from name to address; what could not be because it has changed."""

    archived: dict[str, str] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return vars(self)


def move_done(
    buckets: S3Storage,
    ledger: ClaimLedger,
    settings: PipelineSettings,
    files: Iterable[SourceFile],
    statuses: frozenset[str] = frozenset({SUCCESS, REJECTED}),
    details: Mapping[str, Mapping[str, Any]] | None = None,
) -> Moved:
    """Move stream files that are processed to the archive, and any rejected file to the prefix for those.

    Args:
        buckets: S3.
        ledger: says what is done, with which content.
        settings: the run's.
        files: what is in the source now.
        statuses: which of the two to move.
        details: more to tell of a rejected file, by name (the application's entry for it).
    """
    files = list(files)
    entries = ledger.read(file.name for file in files)
    moved = Moved()

    def move(file: SourceFile) -> None:
        entry = entries.get(file.name)
        if entry is None or entry.etag != file.stored.etag or entry.status not in statuses:
            return
        if entry.waits_for_songs or (entry.status == SUCCESS and file.dataset != STREAMS):
            return  # it stays until songs come; reference data stays
        try:
            if entry.status == REJECTED:
                moved.rejected[file.name] = _set_aside(buckets, settings, file, entry, (details or {}).get(file.name))
            else:
                moved.archived[file.name] = _archive(buckets, settings, file, entry)
        except MovedAwayError as error:
            warn("left where it is", file=file.name, reason=str(error))
            moved.changed.append(file.name)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(move, files))
    log("moved", archived=len(moved.archived), rejected=len(moved.rejected), changed=len(moved.changed))
    return moved


def _archive(buckets: S3Storage, settings: PipelineSettings, file: SourceFile, entry: Entry) -> str:
    folder = f"s3://{settings.archive_bucket}/{settings.archive_prefix}".rstrip("/")
    uri = _place(buckets, folder, file, entry.processed_on)
    buckets.copy(file.stored, uri, _notes(file, entry))
    buckets.delete(file.stored)
    return uri


def _set_aside(
    buckets: S3Storage,
    settings: PipelineSettings,
    file: SourceFile,
    entry: Entry,
    told: Mapping[str, Any] | None,
) -> str:
    folder = f"s3://{settings.archive_bucket}/{settings.rejected_prefix}".rstrip("/")
    uri = _place(buckets, folder, file, entry.processed_on)
    buckets.copy(file.stored, uri, _notes(file, entry))
    reason = {
        "name": file.name,
        "reason": entry.reason,
        "rejected_on": entry.processed_on,
        "run_id": entry.run_id,
        "etag": entry.etag,
        "size": entry.size,
        "modified_at": file.stored.modified_at.isoformat(),
        "samples": list((told or {}).get("samples", [])),
    }
    buckets.write(f"{uri}{REASON_SUFFIX}", json.dumps(reason, indent=1, ensure_ascii=False).encode())
    buckets.delete(file.stored)
    return uri


def _place(buckets: S3Storage, folder: str, file: SourceFile, processed_on: str) -> str:
    """Return where a file goes: `streams/2024-06-25/name`, by the day of processing.

    Another content of the same name on the same day gets a part of its etag into the name, so neither is lost.
    """
    relative = file.name.partition("/")[2]
    day = processed_on[:10] or datetime.now(timezone.utc).strftime("%Y-%m-%d")
    uri = f"{folder}/{file.dataset}/{day}/{relative}"
    notes = buckets.notes(uri)
    if notes is None or notes.get(ETAG_NOTE) == file.stored.etag:
        return uri
    stem, dot, suffix = relative.rpartition("/")[2].partition(".")
    parent = relative.rpartition("/")[0]
    name = f"{stem}.{str(file.stored.etag)[:8]}{dot}{suffix}"
    return f"{folder}/{file.dataset}/{day}/{parent}/{name}" if parent else f"{folder}/{file.dataset}/{day}/{name}"


def _notes(file: SourceFile, entry: Entry) -> dict[str, str]:
    """What a lost lake would need to take the file in again in the right order."""
    return {
        SOURCE_NAME: file.name,
        SOURCE_MODIFIED: file.stored.modified_at.isoformat(),
        "run-id": entry.run_id,
    }


def clean_up(buckets: S3Storage, settings: PipelineSettings, run_folder: str) -> int:
    """Delete a run's own intermediate files, and those that runs which died long ago left; return how many."""
    deleted = buckets.delete_folder(run_folder)
    limit = datetime.now(timezone.utc) - timedelta(days=settings.keep_intermediate_days)
    folders: dict[str, datetime] = {}
    for stored in buckets.list_files(f"{settings.intermediate}/runs"):
        name = stored.relative.partition("/")[0]
        folders[name] = max(folders.get(name, stored.modified_at), stored.modified_at)
    for name, newest in folders.items():
        if newest < limit:
            deleted += buckets.delete_folder(f"{settings.intermediate}/runs/{name}")
    log("intermediate files deleted", files=deleted)
    return deleted
