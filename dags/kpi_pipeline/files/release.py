"""A rejected file is released by hand: it goes back to the source, and its entry in the ledger is forgotten."""

from __future__ import annotations

from kpi_common.errors import UsageError
from kpi_common.s3_files import ETAG_NOTE, S3Storage
from kpi_common.uris import StoredFile
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
    present = buckets.find(target)
    moved = _find_rejected(buckets, rejected, name, entry.etag)
    if present is not None and present.etag != entry.etag:
        raise UsageError(f"{target} has other content by now: the next run takes that")
    if present is None and moved is None:
        raise UsageError(f"{name} is neither in {source} nor in {rejected}")
    if present is None and moved is not None:
        buckets.copy(moved, target, {})
    ledger.forget(name)
    if moved is not None:
        buckets.delete(moved)
        buckets.delete_object(f"{moved.uri}{REASON_SUFFIX}")
    return "the next run takes it again"


def rejected_for(ledger: ClaimLedger, reason: str) -> list[str]:
    """Return the names of all files that were rejected for a reason, such as `run_died`.

    Raises:
        UsageError: there is none; the message has the reasons that there are.
    """
    entries = ledger.with_status(REJECTED)
    names = [entry.filename for entry in entries if entry.reason.partition(":")[0] == reason]
    if not names:
        known = sorted({entry.reason.partition(":")[0] for entry in entries})
        raise UsageError(f"no file is rejected for {reason}; the reasons are: {', '.join(known) or 'none'}")
    return names


def _find_rejected(buckets: S3Storage, rejected: str, name: str, etag: str) -> StoredFile | None:
    """Return the file among the rejected ones, the newest of that name and content."""
    dataset, _, relative = name.partition("/")
    stem = relative.rpartition("/")[2].partition(".")[0]
    found = None
    for stored in buckets.list_files(f"{rejected.rstrip('/')}/{dataset}"):
        if stem not in stored.relative or stored.relative.endswith(REASON_SUFFIX):
            continue
        notes = buckets.notes(stored.uri) or {}  # a copy has an etag of its own where KMS encrypts it
        if notes.get(SOURCE_NAME) == name and etag in {stored.etag, notes.get(ETAG_NOTE)}:
            found = stored
    return found
