"""A lost lake is filled again from the archive: a run manifest of the newest version of every file that was taken in.

The archive holds files below the day on which they were processed, and every version of a file that was corrected;
the manifest gives each its own name and time back, so that the new lake comes to hold what the lost one held.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

from kpi_common.errors import UsageError
from kpi_common.files import storage_for
from kpi_common.log import warn
from kpi_common.s3_files import S3Storage
from kpi_common.uris import StoredFile, is_s3
from kpi_pipeline.dynamodb.lease import utc_now
from kpi_pipeline.files.archive import SOURCE_MODIFIED, SOURCE_NAME
from kpi_pipeline.files.arrivals import DATASETS, SCHEMA_VERSION, is_input, manifest_entry

AT_ONCE = 32
RUN_ID = "reingest"


def write_reingest_manifest(buckets: S3Storage, source: str, archive: str, manifest: str) -> int:
    """Write a run manifest (`conf/schemas/run_manifest.schema.json`) and return how many files it names.

    Args:
        buckets: S3.
        source: songs and users are still there, and streams that were not archived yet.
        archive: what `archive_files` of the DAG wrote.
        manifest: where to; `s3://…` or a local path.

    Raises:
        UsageError: there is no file.
    """
    versions = [*_archived(buckets, archive), *_in_source(buckets, source)]
    newest: dict[str, tuple[tuple[datetime, datetime], dict[str, Any]]] = {}
    for entry, archived_at in versions:
        order = (datetime.fromisoformat(entry["modified_at"]), archived_at)
        if entry["name"] not in newest or newest[entry["name"]][0] < order:
            newest[entry["name"]] = (order, entry)
    if not newest:
        raise UsageError(f"neither {archive} nor {source} holds a CSV file in {', '.join(DATASETS)}")
    files = [entry for _, (_, entry) in sorted(newest.items())]
    content = {"schema_version": SCHEMA_VERSION, "run_id": RUN_ID, "created_at": utc_now(), "files": files}
    data = json.dumps(content, indent=1, ensure_ascii=False).encode()
    store = buckets if is_s3(manifest) else storage_for(manifest)
    store.write(manifest, data)
    return len(files)


def _archived(buckets: S3Storage, archive: str) -> Iterable[tuple[dict[str, Any], datetime]]:
    def describe(dataset: str, stored: StoredFile) -> tuple[dict[str, Any], datetime]:
        notes = buckets.notes(stored.uri) or {}
        name, modified = notes.get(SOURCE_NAME, ""), notes.get(SOURCE_MODIFIED, "")
        if not name or not modified:
            warn("not archived by the pipeline: taken under its own name and time", file=stored.uri)
            name, modified = f"{dataset}/{stored.relative}", stored.modified_at.isoformat()
        return manifest_entry(dataset, name, modified, stored), stored.modified_at

    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield from pool.map(lambda found: describe(*found), _csv_files(buckets, archive))


def _in_source(buckets: S3Storage, source: str) -> Iterable[tuple[dict[str, Any], datetime]]:
    for dataset, stored in _csv_files(buckets, source):
        name = f"{dataset}/{stored.relative}"
        yield manifest_entry(dataset, name, stored.modified_at.isoformat(), stored), stored.modified_at


def _csv_files(buckets: S3Storage, uri: str) -> Iterable[tuple[str, StoredFile]]:
    for dataset in DATASETS:
        for stored in buckets.list_files(f"{uri.rstrip('/')}/{dataset}"):
            if is_input(stored.relative):
                yield dataset, stored
