"""The lake's lock: a lease in a small file, taken by a conditional write, renewed, taken over when its holder is dead.

Delta has no transaction over several tables, so one application at a time may write to a lake. The lease is what
makes this true on S3, where two drivers that commit to one table can otherwise lose a commit.
"""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kpi_common.files import Storage, join, storage_for
from kpi_common.log import log, warn
from spark_app.errors import LakeLockedError, LockLostError, StorageError

LOCK_FILE = "ops/lake.lock"
LONGEST_LEASE_SECONDS = 3600  # as the setting's: a lock file that says more is not of a run


class LakeLock:
    """A held lease; `ensure_held` is called before each commit."""

    def __init__(self, storage: Storage, uri: str, run_id: str, lease_seconds: float) -> None:
        self._storage, self._uri, self._lease_seconds = storage, uri, lease_seconds
        self._holder = {"holder": uuid.uuid4().hex, "run_id": run_id, **_this_process()}
        self._tag: str | None = None
        self._renewed_at = 0.0
        self._stop = threading.Event()
        self._mutex = threading.Lock()
        self._lost = False

    def acquire(self, wait_seconds: float) -> None:
        """Take the lease, waiting for its holder to finish or to be seen dead.

        Only a sign of life ends the waiting without the lock: a holder that gives none is watched for as long as its
        lease lasts, then it counts as dead.

        Args:
            wait_seconds: how long to wait for a holder that lives.

        Raises:
            LakeLockedError: another application held and renewed it all that time.
        """
        deadline = time.monotonic() + wait_seconds
        seen_tag, seen_since, logged = None, 0.0, False
        while True:
            data, tag = self._storage.read_tagged(self._uri) or (None, None)
            renewed = tag != seen_tag and seen_tag is not None
            if tag != seen_tag:
                seen_tag, seen_since = tag, time.monotonic()
            holder = _holder(data)
            if holder is None or time.monotonic() - seen_since >= holder["lease_seconds"] or _is_dead(holder):
                if self._take(tag):
                    self._report_takeover(data, holder)
                    break
                continue
            if time.monotonic() >= deadline and (renewed or _lives_here(holder)):
                raise LakeLockedError(
                    f"{self._uri}: the lake is in use by run {holder.get('run_id')} "
                    f"(process {holder.get('pid')} on {holder.get('host')}, renewed {holder.get('renewed_at')}); "
                    "wait for it to end, or raise lock_wait_seconds"
                )
            if not logged:
                log("waiting for the lake's lock", held_by=holder.get("run_id"))
                logged = True
            time.sleep(min(0.5, self._lease_seconds / 4, holder["lease_seconds"] / 4))
        threading.Thread(target=self._renew_until_stopped, name="lake-lock", daemon=True).start()

    def _report_takeover(self, data: bytes | None, holder: dict[str, Any] | None) -> None:
        if holder is not None:
            warn("took over the lake's lock from a dead run", run=holder.get("run_id"))
        elif data is not None:
            warn("the lake's lock file holds nothing that a run writes; taken for a dead run's", file=self._uri)

    def ensure_held(self) -> None:
        """Raise LockLostError if the lease was, or may have been, taken over."""
        expired = _clock() - self._renewed_at > self._lease_seconds
        if self._lost or (expired and not self._renew()):
            raise LockLostError(f"{self._uri}: another run took over this lake's lock; nothing more is written")

    def release(self) -> None:
        """Give the lease back."""
        self._stop.set()
        with self._mutex:
            if self._tag is not None and not self._lost:
                with suppress(StorageError):
                    self._storage.delete_if(self._uri, self._tag)
            self._lost = True

    def _content(self) -> bytes:
        now = datetime.now(UTC).isoformat()
        fields = {**self._holder, "lease_seconds": self._lease_seconds, "renewed_at": now, "beat": uuid.uuid4().hex}
        return json.dumps(fields).encode()

    def _take(self, tag: str | None) -> bool:
        asked_at = _clock()
        self._tag = self._write_if(tag)
        self._renewed_at = asked_at
        return self._tag is not None

    def _renew(self) -> bool:
        with self._mutex:
            if self._lost or self._tag is None:
                return False
            asked_at = _clock()
            tag = self._write_if(self._tag)
            if tag is None:
                self._lost = True
                return False
            self._tag, self._renewed_at = tag, asked_at
            return True

    def _write_if(self, tag: str | None) -> str | None:
        """Write the lease if the file still has this tag; return its new tag, or None if another was quicker."""
        written = self._storage.write_if(self._uri, self._content(), tag)
        if written is not None:
            return written
        # A reply may have been lost, and the request sent again: if what is there is ours, the write did happen.
        content, there = self._storage.read_tagged(self._uri) or (None, None)
        return there if (_holder(content) or {}).get("holder") == self._holder["holder"] else None

    def _renew_until_stopped(self) -> None:
        while not self._stop.wait(self._lease_seconds / 3):
            with suppress(StorageError):  # tried again at the next beat; `ensure_held` watches the time
                if not self._renew():
                    return


@contextmanager
def lake_lock(lake: str, run_id: str, lease_seconds: float, wait_seconds: float) -> Iterator[LakeLock]:
    """Hold the lake's lock for a block."""
    lock = LakeLock(storage_for(lake), join(lake, LOCK_FILE), run_id, lease_seconds)
    lock.acquire(wait_seconds)
    try:
        yield lock
    finally:
        lock.release()


def _clock() -> float:
    """Seconds that go on while the machine is suspended, as other machines' leases do."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _holder(data: bytes | None) -> dict[str, Any] | None:
    """Return what a holder wrote; None if there is no file, or content that no run writes."""
    try:
        fields = json.loads(data or b"")
        lease = fields["lease_seconds"]
        sane = isinstance(lease, int | float) and not isinstance(lease, bool) and 0 < lease <= LONGEST_LEASE_SECONDS
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return fields if sane else None


def _this_process() -> dict[str, Any]:
    return {"host": _machine(), "pid": os.getpid(), "process_started": _process_start(os.getpid())}


def _is_dead(holder: dict[str, Any]) -> bool:
    """Tell whether the holder ran on this very machine and its process is gone (no need to wait then)."""
    pid = holder.get("pid")
    if not isinstance(pid, int) or not holder.get("host") or holder.get("host") != _machine():
        return False
    return _process_start(pid) != holder.get("process_started")


def _lives_here(holder: dict[str, Any]) -> bool:
    """Tell whether the holder is a process of this very machine that renewed its lease in time."""
    try:
        age = datetime.now(UTC) - datetime.fromisoformat(holder["renewed_at"])
        return bool(_machine()) and holder["host"] == _machine() and abs(age.total_seconds()) < holder["lease_seconds"]
    except (KeyError, TypeError, ValueError):
        return False


def _machine() -> str:
    """Name this boot of this machine and this process namespace, so that a process number means one process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _process_start(pid: int) -> str | None:
    """Return when a process was started, in the kernel's ticks, or None if it is gone (or a zombie)."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if after_name[0] == "Z" else after_name[19]
