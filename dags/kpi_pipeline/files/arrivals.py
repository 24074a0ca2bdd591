"""Which files a run takes: what is in the source and is not done, claimed for the run, with a manifest for the job."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from kpi_common.errors import AppError
from kpi_common.log import warn
from kpi_common.s3_files import S3Storage
from kpi_common.uris import StoredFile
from kpi_pipeline.dynamodb.lease import utc_now
from kpi_pipeline.files.claims import PROCESSING, REJECTED, SUCCESS, ClaimLedger, Entry, Liveness
from kpi_pipeline.settings import PipelineSettings

STREAMS = "streams"
REFERENCE = ("songs", "users")
DATASETS = (*REFERENCE, STREAMS)
SUFFIXES = (".csv", ".csv.gz")
MANIFEST = "manifest.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class SourceFile:
    """A file in the source: `name` is `streams/streams1.csv`, which identifies it over time."""

    dataset: str
    name: str
    stored: StoredFile

    @property
    def order(self) -> tuple[Any, ...]:
        """Reference data first, then by modification time and name."""
        return self.dataset == STREAMS, self.stored.modified_at, self.name

    def to_json(self) -> dict[str, Any]:
        """Return the file's entry in a run manifest."""
        return manifest_entry(self.dataset, self.name, self.stored.modified_at.isoformat(), self.stored)


def manifest_entry(dataset: str, name: str, modified_at: str, stored: StoredFile) -> dict[str, Any]:
    """Return a file's entry in a run manifest; name and time may be those that it had before it was archived."""
    return {
        "dataset": dataset,
        "name": name,
        "path": stored.uri,
        "etag": stored.etag,
        "size": stored.size,
        "modified_at": modified_at,
    }


@dataclass
class Arrivals:
    """What was found in the source."""

    claimed: list[SourceFile] = field(default_factory=list)
    known_reference: list[SourceFile] = field(default_factory=list)
    done: list[tuple[SourceFile, Entry]] = field(default_factory=list)
    held: list[SourceFile] = field(default_factory=list)
    waiting: int = 0


@dataclass(frozen=True)
class Candidate:
    """A file that could be claimed, and what the ledger says of it."""

    file: SourceFile
    entry: Entry | None


def list_source(buckets: S3Storage, settings: PipelineSettings) -> list[SourceFile]:
    """Return the files of all three folders, in the order in which they are taken; others' files are passed over."""
    files = [
        SourceFile(dataset, f"{dataset}/{stored.relative}", stored)
        for dataset in DATASETS
        for stored in buckets.list_files(f"{settings.source}/{dataset}")
        if is_input(stored.relative)
    ]
    return sorted(files, key=lambda file: file.order)


def is_input(relative: str) -> bool:
    """Tell whether a path is an input: a CSV file, not hidden, not in a folder of unfinished work."""
    *folders, name = relative.split("/")
    if not name.endswith(SUFFIXES) or name.startswith("."):
        return False
    return not any(folder.startswith(("_", ".")) for folder in folders)


def claim_arrivals(
    files: Iterable[SourceFile],
    ledger: ClaimLedger,
    run_id: str,
    settings: PipelineSettings,
    liveness: Liveness,
    again: Collection[str] | None = None,
) -> Arrivals:
    """Claim for the run what is not done yet, up to the limits of a run.

    Args:
        files: of `list_source`.
        ledger: of all files.
        run_id: Airflow's; what the run claimed before (the task is tried again) stays claimed.
        settings: limits.
        liveness: of the runs that hold claims.
        again: names in the run's own manifest when it is continued: these, and no others.
    """
    found, candidates, until_songs_come = _sort_out(
        [file for file in files if again is None or file.name in again], ledger, run_id, liveness
    )
    if any(candidate.file.dataset == "songs" for candidate in candidates):
        candidates += until_songs_come
    size = 0
    for candidate in candidates:
        file, entry = candidate.file, candidate.entry
        size += file.stored.size
        if found.claimed and (len(found.claimed) >= settings.max_files or size > settings.max_bytes):
            break
        if ledger.claim(Entry(file.name, PROCESSING, str(file.stored.etag), file.stored.size, run_id), entry):
            found.claimed.append(file)
        else:
            found.held.append(file)
    if found.held:
        warn("files that another run has claimed are left to it", files=len(found.held))
    found.waiting = max(0, len(candidates) - len(found.claimed))
    return found


def _sort_out(
    files: list[SourceFile], ledger: ClaimLedger, run_id: str, liveness: Liveness
) -> tuple[Arrivals, list[Candidate], list[Candidate]]:
    """Return what is done or held, what could be claimed, and what could be once songs come."""
    entries = ledger.read(file.name for file in files)
    found, candidates, until_songs_come = Arrivals(), list[Candidate](), list[Candidate]()
    for file in files:
        entry = entries.get(file.name)
        if entry is not None and entry.etag == file.stored.etag and entry.status in (SUCCESS, REJECTED):
            if entry.waits_for_songs:
                until_songs_come.append(Candidate(file, entry))
            elif entry.status == SUCCESS and file.dataset != STREAMS:
                found.known_reference.append(file)
            else:
                found.done.append((file, entry))
        elif _is_held(entry, run_id, liveness):
            found.held.append(file)
        else:
            candidates.append(Candidate(file, entry))
    return found, candidates, until_songs_come


def _is_held(entry: Entry | None, run_id: str, liveness: Liveness) -> bool:
    if entry is None or entry.status != PROCESSING or entry.run_id == run_id:
        return False
    return not liveness.is_dead(entry)


# --- the run manifest ---


def write_run_manifest(
    buckets: S3Storage, settings: PipelineSettings, run_id: str, files: Iterable[SourceFile]
) -> None:
    """Write the run manifest (`conf/schemas/run_manifest.schema.json`)."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "run_id": run_id,
        "input": settings.source,
        "created_at": utc_now(),
        "files": [file.to_json() for file in files],
    }
    buckets.write(manifest_uri(settings, run_id), json.dumps(content, indent=1, ensure_ascii=False).encode())


def find_run_manifest(buckets: S3Storage, settings: PipelineSettings, run_id: str) -> dict[str, Any] | None:
    """Return the manifest that the run has written, or None."""
    data = buckets.read(manifest_uri(settings, run_id))
    content: dict[str, Any] | None = None if data is None else json.loads(data)
    return content


def read_run_manifest(buckets: S3Storage, settings: PipelineSettings, run_id: str) -> dict[str, Any]:
    """Return the manifest that the run has written.

    Raises:
        AppError: there is none.
    """
    content = find_run_manifest(buckets, settings, run_id)
    if content is None:
        raise AppError(f"{manifest_uri(settings, run_id)} is missing: clear claim_files to make it again")
    return content


def manifest_uri(settings: PipelineSettings, run_id: str) -> str:
    """Return the address of a run's manifest."""
    return f"{run_folder(settings, run_id)}/{MANIFEST}"


def run_folder(settings: PipelineSettings, run_id: str) -> str:
    """Return the address of a run's own folder of intermediate files."""
    return f"{settings.intermediate}/runs/{safe_name(run_id)}"


def safe_name(run_id: str) -> str:
    """Return a run's id as the Spark application takes it as `--run-id`, and as a folder is called."""
    name = re.sub(r"[^A-Za-z0-9._~:+=@-]", "-", run_id)
    name = re.sub(r"\.\.+", ".", name)
    return name.lstrip("._~:+=@-")[:180] or "run"
