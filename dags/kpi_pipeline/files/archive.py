"""Files that are done leave the source: copied, checked, then deleted; to be interrupted and done again at any point.

What is to move is read from the ledger and the source, not from one run: so what an interrupted run left is moved by
the next. A file whose content has changed since it was processed stays where it is: it is a new one. So does one whose
name is too long for S3 with what the archive puts to it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from kpi_common.errors import MovedAwayError, StorageError, refuses_one_file
from kpi_common.log import log, warn
from kpi_common.s3_files import ETAG_NOTE, S3Storage
from kpi_common.uris import bucket_and_key
from kpi_pipeline.files.arrivals import STREAMS, SourceFile
from kpi_pipeline.files.claims import REJECTED, SUCCESS, ClaimLedger, Entry
from kpi_pipeline.settings import PipelineSettings

AT_ONCE = 8
REASON_SUFFIX = ".reason.json"
SOURCE_NAME = "source-name"
SOURCE_MODIFIED = "source-modified-at"
RUN_DIED = "run_died"  # a rejection of the application
MAX_KEY_BYTES = 1024  # of S3, and of an object's notes
MAX_NOTES_BYTES = 2048
ETAG_IN_NAME = 8  # characters


@dataclass
class Moved:
    """What was moved, from name to address; what could not be because it has changed, or why else, by name."""

    archived: dict[str, str] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)

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
        if entry is None or entry.status not in statuses or not is_to_move(file, entry):
            return
        problem = archive_problem(settings, file, entry)
        if problem is not None:
            warn("can't be archived, left where it is", file=file.name, reason=problem)
            moved.left[file.name] = problem
            return
        try:
            if entry.status == REJECTED:
                found = (details or {}).get(file.name)
                moved.rejected[file.name] = _move_rejected(buckets, settings, file, entry, found)
            else:
                moved.archived[file.name] = _archive(buckets, settings, file, entry)
        except MovedAwayError as error:
            warn("left where it is", file=file.name, reason=str(error))
            moved.changed.append(file.name)
        except StorageError as error:
            if not refuses_one_file(error):
                raise
            warn("can't be moved, left where it is", file=file.name, reason=str(error))
            moved.left[file.name] = str(error)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(move, files))
    log("moved", archived=len(moved.archived), rejected=len(moved.rejected), left=len(moved.changed) + len(moved.left))
    return moved


def is_to_move(file: SourceFile, entry: Entry) -> bool:
    """Whether a file is done with this content; one that waits for songs stays until they come.

    Songs and users stay, unless their content is bad: also where runs died of them.
    """
    if entry.etag != file.stored.etag or entry.waits_for_songs:
        return False
    if file.dataset == STREAMS:
        return entry.status in {SUCCESS, REJECTED}
    return entry.status == REJECTED and not entry.reason.startswith(RUN_DIED)


def archive_problem(settings: PipelineSettings, file: SourceFile, entry: Entry) -> str | None:
    """Return why S3 would not take a file under its name in the archive, or None."""
    folder, suffix = (settings.rejected, REASON_SUFFIX) if entry.status == REJECTED else (settings.archive, "")
    key = bucket_and_key(_address(folder, file, entry.processed_on, suffix))[1]
    size = len(key.encode()) + ETAG_IN_NAME + 1
    if size > MAX_KEY_BYTES:
        return f"its key in {folder} would have {size} bytes, S3 takes {MAX_KEY_BYTES}: shorten its name"
    notes = {**_notes(file, entry), ETAG_NOTE: str(file.stored.etag)}
    size = sum(len(name) + len(quote(value, safe="/ :+-_.")) for name, value in notes.items())
    return f"its notes would have {size} bytes, S3 takes {MAX_NOTES_BYTES}" if size > MAX_NOTES_BYTES else None


def _archive(buckets: S3Storage, settings: PipelineSettings, file: SourceFile, entry: Entry) -> str:
    uri = _place(buckets, settings.archive, file, entry.processed_on)
    buckets.copy(file.stored, uri, _notes(file, entry))
    buckets.delete(file.stored)
    return uri


def _move_rejected(
    buckets: S3Storage,
    settings: PipelineSettings,
    file: SourceFile,
    entry: Entry,
    found: Mapping[str, Any] | None,
) -> str:
    uri = _place(buckets, settings.rejected, file, entry.processed_on)
    buckets.copy(file.stored, uri, _notes(file, entry))
    reason = {
        "name": file.name,
        "reason": entry.reason,
        "rejected_on": entry.processed_on,
        "run_id": entry.run_id,
        "etag": entry.etag,
        "size": entry.size,
        "modified_at": file.stored.modified_at.isoformat(),
        "samples": list((found or {}).get("samples", [])),
    }
    buckets.write(f"{uri}{REASON_SUFFIX}", json.dumps(reason, indent=1, ensure_ascii=False).encode())
    buckets.delete(file.stored)
    return uri


def _place(buckets: S3Storage, folder: str, file: SourceFile, processed_on: str) -> str:
    """Return where a file goes: `streams/2024-06-25/name`, by the day of processing.

    Another content of the same name on the same day gets a part of its etag into the name, so neither is lost.
    """
    uri = _address(folder, file, processed_on)
    notes = buckets.notes(uri)
    if notes is None or notes.get(ETAG_NOTE) == file.stored.etag:
        return uri
    parent, _, name = uri.rpartition("/")
    stem, dot, suffix = name.partition(".")
    return f"{parent}/{stem}.{str(file.stored.etag)[:ETAG_IN_NAME]}{dot}{suffix}"


def _address(folder: str, file: SourceFile, processed_on: str, suffix: str = "") -> str:
    day = processed_on[:10] or datetime.now(UTC).strftime("%Y-%m-%d")
    return f"{folder}/{file.dataset}/{day}/{file.name.partition('/')[2]}{suffix}"


def _notes(file: SourceFile, entry: Entry) -> dict[str, str]:
    """Return what a lost lake would need to take the file in again in the right order."""
    return {
        SOURCE_NAME: file.name,
        SOURCE_MODIFIED: file.stored.modified_at.isoformat(),
        "run-id": entry.run_id,
    }


def clean_up(buckets: S3Storage, settings: PipelineSettings, run_folder: str | None) -> int:
    """Delete a run's own intermediate files, if named, and those that runs which died long ago left.

    Returns:
        How many files.
    """
    deleted = buckets.delete_folder(run_folder) if run_folder is not None else 0
    limit = datetime.now(UTC) - timedelta(days=settings.keep_intermediate_days)
    folders: dict[str, datetime] = {}
    for stored in buckets.list_files(f"{settings.intermediate}/runs"):
        name = stored.relative.partition("/")[0]
        folders[name] = max(folders.get(name, stored.modified_at), stored.modified_at)
    for name, newest in folders.items():
        if newest < limit:
            deleted += buckets.delete_folder(f"{settings.intermediate}/runs/{name}")
    log("intermediate files deleted", files=deleted)
    return deleted


def delete_old_reasons(buckets: S3Storage, settings: PipelineSettings) -> int:
    """Delete what tells why files were rejected, with samples of their rows, after `quarantine_days`; the files stay.

    Returns:
        How many files.
    """
    if not settings.quarantine_days:
        return 0
    limit = datetime.now(UTC) - timedelta(days=settings.quarantine_days)
    listed = list(buckets.list_files(settings.rejected))
    old = [one for one in listed if one.relative.endswith(REASON_SUFFIX) and one.modified_at < limit]
    for stored in old:
        buckets.delete_object(stored.uri)
    log("old reasons of rejected files deleted", files=len(old))
    return len(old)
