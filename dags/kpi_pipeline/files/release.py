"""A rejected file is released by hand: it goes back to the source, and its entry in the ledger is forgotten."""

from __future__ import annotations

from kpi_common.files import StoredFile
from kpi_common.s3_files import S3Storage
from kpi_pipeline.errors import UsageError
from kpi_pipeline.files.archive import REASON_SUFFIX, SOURCE_NAME
from kpi_pipeline.files.claims import REJECTED, ClaimLedger


def release(buckets: S3Storage, ledger: ClaimLedger, source: str, rejected: str, name: str) -> str:
    """Let the next run take a rejected file again and return what was done.

    Raises:
        UsageError: the file is not rejected, or another file has its name in the source by now.
    """
    entry = ledger.read([name]).get(name)
    if entry is None or entry.status != REJECTED:
        state = "not in the ledger" if entry is None else entry.status
        raise UsageError(f"{name} is {state}: only a rejected file can be released")
    target = f"{source.rstrip('/')}/{name}"
    there = buckets.find(target)
    aside = _set_aside(buckets, rejected, name, entry.etag)
    if there is not None and there.etag != entry.etag:
        raise UsageError(f"{target} is there with other content: the next run takes that")
    if there is None and aside is None:
        raise UsageError(f"{name} is neither in {source} nor in {rejected}")
    if there is None and aside is not None:
        buckets.copy(aside, target, {})
    ledger.forget(name)
    if aside is not None:
        buckets.delete(aside)
        buckets.delete_object(f"{aside.uri}{REASON_SUFFIX}")
    return "the next run takes it again"


def _set_aside(buckets: S3Storage, rejected: str, name: str, etag: str) -> StoredFile | None:
    """Return the file among the rejected ones, the newest of that name and content."""
    dataset, _, relative = name.partition("/")
    stem = relative.rpartition("/")[2].partition(".")[0]
    found = None
    for stored in buckets.list_files(f"{rejected.rstrip('/')}/{dataset}"):
        if stem not in stored.relative or stored.relative.endswith(REASON_SUFFIX) or stored.etag != etag:
            continue
        if (buckets.notes(stored.uri) or {}).get(SOURCE_NAME) == name:
            found = stored
    return found
