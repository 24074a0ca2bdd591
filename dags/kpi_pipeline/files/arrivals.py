"""Which files a run takes: what is in the source and is not done, claimed for the run, with a manifest for the job."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from kpi_common.files import StoredFile
from kpi_common.log import log, warn
from kpi_common.s3_files import S3Storage
from kpi_pipeline.dynamodb.lease import utc_now
from kpi_pipeline.errors import PipelineError
from kpi_pipeline.files.claims import PROCESSING, REJECTED, SUCCESS, ClaimLedger, Entry, Liveness
from kpi_pipeline.pipeline_settings import PipelineSettings

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
        stored = self.stored
        return {
            "dataset": self.dataset,
            "name": self.name,
            "path": stored.uri,
            "etag": stored.etag,
            "size": stored.size,
            "modified_at": stored.modified_at.isoformat(),
        }


@dataclass
class Arrivals:
    """What was found in the source."""

    claimed: list[SourceFile] = field(default_factory=list)
    known_reference: list[SourceFile] = field(default_factory=list)
    leftovers: list[SourceFile] = field(default_factory=list)
    held: list[SourceFile] = field(default_factory=list)
    waiting: int = 0


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
    return not any(folder.startswith(("_", ".")) or folder == ".." for folder in folders)


def claim_arrivals(
    files: Iterable[SourceFile],
    ledger: ClaimLedger,
    run_id: str,
    settings: PipelineSettings,
    liveness: Liveness,
) -> Arrivals:
    """Claim for the run what is not done yet, up to the limits of a run.

    What the run claimed before (the task is tried again) stays claimed.
    """
    files = list(files)
    entries = ledger.read(file.name for file in files)
    found = Arrivals()
    taken_bytes = 0
    for file in files:
        entry = entries.get(file.name)
        songs_came = any(claimed.dataset == "songs" for claimed in found.claimed)
        if entry is not None and _is_done(entry, file) and not (songs_came and entry.waits_for_songs):
            _note_done(found, file, entry)
            continue
        if entry is not None and entry.status == PROCESSING and entry.run_id != run_id:
            if not liveness.is_dead(entry):
                found.held.append(file)
                continue
            log("claim of a run that has ended is given up", file=file.name, run_id=entry.run_id)
        if found.claimed and (
            len(found.claimed) >= settings.max_files or taken_bytes + file.stored.size > settings.max_bytes
        ):
            found.waiting += 1
            continue
        wanted = Entry(file.name, PROCESSING, file.stored.etag or "", file.stored.size, run_id)
        if ledger.claim(wanted, entry):
            found.claimed.append(file)
            taken_bytes += file.stored.size
        else:
            found.held.append(file)
    if found.held:
        warn("files that another run has claimed are left to it", files=len(found.held))
    return found


def _is_done(entry: Entry, file: SourceFile) -> bool:
    return entry.etag == file.stored.etag and entry.status in (SUCCESS, REJECTED)


def _note_done(found: Arrivals, file: SourceFile, entry: Entry) -> None:
    if entry.waits_for_songs:
        return
    if file.dataset != STREAMS:
        if entry.status == SUCCESS:
            found.known_reference.append(file)
        else:
            found.leftovers.append(file)
    else:
        found.leftovers.append(file)


# --- the run manifest ---


def write_manifest(
    buckets: S3Storage, settings: PipelineSettings, run_id: str, files: Iterable[SourceFile]
) -> tuple[str, dict[str, Any]]:
    """Write the run manifest (`conf/schemas/run_manifest.schema.json`) and return its address and content."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "run_id": run_id,
        "input": settings.source,
        "created_at": utc_now(),
        "files": [file.to_json() for file in files],
    }
    uri = f"{run_folder(settings, run_id)}/{MANIFEST}"
    buckets.write(uri, json.dumps(content, indent=1, ensure_ascii=False).encode())
    return uri, content


def read_manifest(buckets: S3Storage, uri: str) -> dict[str, Any]:
    """Read a run manifest that `write_manifest` wrote."""
    data = buckets.read(uri)
    if data is None:
        raise PipelineError(f"{uri} is missing: start the run again, from claim_files on")
    content: dict[str, Any] = json.loads(data)
    return content


def run_folder(settings: PipelineSettings, run_id: str) -> str:
    """Return the address of a run's own folder of intermediate files."""
    return f"{settings.intermediate}/runs/{safe_name(run_id)}"


def safe_name(run_id: str) -> str:
    """Return a run's id as the Spark application takes it as `--run-id`, and as a folder is called."""
    name = re.sub(r"[^A-Za-z0-9._~:+=@-]", "-", run_id)
    name = re.sub(r"\.\.+", ".", name)
    return name.lstrip("._~:+=@-")[:180] or "run"
