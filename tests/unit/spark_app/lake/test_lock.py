import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kpi_common.files import LocalStorage, join
from spark_app.errors import LakeLockedError, LockLostError, StorageError
from spark_app.lake import lock as lock_module
from spark_app.lake.lock import LOCK_FILE, LakeLock, lake_lock

HOLDER = """
import sys, time
from spark_app.lake.lock import lake_lock
with lake_lock(sys.argv[1], "theirs", 60, 0):
    print("held", flush=True)
    time.sleep(60)
"""


def content(lake: Path) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads((lake / LOCK_FILE).read_bytes())
    return fields


def a_lease(lake: Path, **fields: Any) -> None:
    """Write the lease of a holder on another machine, who says nothing more."""
    lease = {"holder": "h", "run_id": "silent", "host": "elsewhere", "pid": 1, "lease_seconds": 60} | fields
    (lake / LOCK_FILE).parent.mkdir(parents=True, exist_ok=True)
    (lake / LOCK_FILE).write_text(json.dumps(lease))


@pytest.fixture
def other_process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of the lake in tmp_path."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[4])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_lock_is_there_while_it_is_held_and_gone_afterwards(tmp_path: Path) -> None:
    with lake_lock(str(tmp_path), "mine", 60, 0) as lock:
        lock.ensure_held()
        assert content(tmp_path)["run_id"] == "mine"
        assert content(tmp_path)["pid"] == os.getpid()
    assert not (tmp_path / LOCK_FILE).exists()


def test_the_lock_is_given_back_when_the_run_fails(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="broken"), lake_lock(str(tmp_path), "mine", 60, 0):
        raise ValueError("broken")
    assert not (tmp_path / LOCK_FILE).exists()


def test_a_second_run_is_refused_and_told_who_holds_the_lock(tmp_path: Path) -> None:
    with lake_lock(str(tmp_path), "first", 60, 0) as lock:
        with (
            pytest.raises(LakeLockedError, match=rf"in use by run first \(process {os.getpid()} on ") as raised,
            lake_lock(str(tmp_path), "second", 60, 0.1),
        ):
            pass
        assert raised.value.exit_code == 1
        lock.ensure_held()
    assert not (tmp_path / LOCK_FILE).exists()


def test_a_second_run_waits_for_the_first_to_finish(tmp_path: Path) -> None:
    entered = threading.Event()

    def hold_a_moment() -> None:
        with lake_lock(str(tmp_path), "first", 1, 0):
            entered.set()
            time.sleep(0.3)

    thread = threading.Thread(target=hold_a_moment)
    thread.start()
    entered.wait()
    with lake_lock(str(tmp_path), "second", 1, 10):
        assert content(tmp_path)["run_id"] == "second"
    thread.join()


@pytest.mark.usefixtures("other_process")
def test_the_lock_of_a_living_process_is_respected(tmp_path: Path) -> None:
    with pytest.raises(LakeLockedError, match="in use by run theirs"), lake_lock(str(tmp_path), "mine", 60, 0.3):
        pass


def test_the_lease_of_a_dead_process_is_taken_over_at_once(
    tmp_path: Path, other_process: subprocess.Popen[str]
) -> None:
    other_process.send_signal(signal.SIGKILL)
    other_process.wait()
    with lake_lock(str(tmp_path), "mine", 60, 0) as lock:
        lock.ensure_held()
        assert content(tmp_path)["run_id"] == "mine"


def test_a_process_that_is_dead_but_not_yet_reaped_counts_as_dead(
    tmp_path: Path, other_process: subprocess.Popen[str]
) -> None:
    other_process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, other_process.pid, os.WEXITED | os.WNOWAIT)
    with lake_lock(str(tmp_path), "mine", 60, 0):
        assert content(tmp_path)["run_id"] == "mine"


def test_a_process_number_that_was_given_anew_is_not_the_holder(tmp_path: Path) -> None:
    with lake_lock(str(tmp_path), "mine", 60, 0):
        mine = content(tmp_path)
    a_lease(tmp_path, host=mine["host"], pid=mine["pid"], process_started="1")
    with lake_lock(str(tmp_path), "mine", 60, 0):
        pass


@pytest.mark.parametrize("wait_seconds", [0, 10])
def test_a_holder_without_a_sign_of_life_is_replaced_after_its_own_lease(tmp_path: Path, wait_seconds: float) -> None:
    """After a power cut, or in a new container. As it was, a shorter wait ended each start with an error."""
    a_lease(tmp_path, lease_seconds=0.4)
    started = time.monotonic()
    with lake_lock(str(tmp_path), "mine", 60, wait_seconds):
        assert time.monotonic() - started >= 0.4
        assert content(tmp_path)["run_id"] == "mine"


def test_a_living_holder_elsewhere_is_seen_by_its_renewals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for as long as the setting says, or until it gives its next sign of life."""
    machine = {threading.main_thread(): "here"}
    monkeypatch.setattr(lock_module, "_machine", lambda: machine.get(threading.current_thread(), "there"))
    done = threading.Event()

    def hold() -> None:
        with lake_lock(str(tmp_path), "theirs", 1, 0):
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    while not (tmp_path / LOCK_FILE).exists():
        time.sleep(0.01)
    started = time.monotonic()
    for wait_seconds in (0, 1.2):
        with pytest.raises(LakeLockedError, match="in use by run theirs"):
            LakeLock(LocalStorage(), join(str(tmp_path), LOCK_FILE), "mine", 60).acquire(wait_seconds)
    assert time.monotonic() - started >= 1.2
    done.set()
    thread.join()


def test_a_process_that_is_stopped_for_longer_than_its_lease_is_not_waited_for_for_ever(
    tmp_path: Path, other_process: subprocess.Popen[str]
) -> None:
    other_process.send_signal(signal.SIGSTOP)
    long_ago = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    (tmp_path / LOCK_FILE).write_text(json.dumps({**content(tmp_path), "lease_seconds": 0.5, "renewed_at": long_ago}))
    with lake_lock(str(tmp_path), "mine", 60, 0):
        assert content(tmp_path)["run_id"] == "mine"


ODD_LEASES = ['"abc"', "null", "1e12", "-1", "0", "[]", "[60]", "{}", "true", "NaN", "Infinity", "1" * 400, '"60"']


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "7", '"x"', "\xff\xfe", "[" * 100_000, "{}"]
    + [f'{{"holder": "h", "run_id": "odd", "lease_seconds": {lease}}}' for lease in ODD_LEASES],
)
def test_a_lock_file_with_odd_content_is_a_dead_holders(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    """As it was, some of these were a stack trace, and some were waited for for ever."""
    a_lease(tmp_path)
    (tmp_path / LOCK_FILE).write_bytes(text.encode("latin-1"))
    logging.getLogger("spark_app").propagate = True
    with lake_lock(str(tmp_path), "mine", 60, 0):
        assert content(tmp_path)["run_id"] == "mine"
    assert "lock file holds nothing that a run writes" in caplog.text


@pytest.mark.timeout(10)
@pytest.mark.parametrize("field", ["host", "pid", "process_started", "renewed_at", "run_id", "holder"])
@pytest.mark.parametrize("value", [None, -1, 10**400, "x", [], {}, True])
def test_other_fields_may_hold_anything(tmp_path: Path, field: str, value: object) -> None:
    with lake_lock(str(tmp_path), "mine", 60, 0):
        mine = content(tmp_path)
    a_lease(tmp_path, **{**mine, "lease_seconds": 0.01, field: value})
    with lake_lock(str(tmp_path), "mine", 60, 5):
        assert content(tmp_path)["run_id"] == "mine"


def test_a_lease_is_renewed_while_it_is_held(tmp_path: Path) -> None:
    with lake_lock(str(tmp_path), "mine", 0.3, 0) as lock:
        first = content(tmp_path)["beat"]
        time.sleep(0.7)
        assert content(tmp_path)["beat"] != first
        lock.ensure_held()


def test_a_run_whose_lock_was_taken_over_stops(tmp_path: Path) -> None:
    with lake_lock(str(tmp_path), "mine", 0.3, 0) as lock:
        a_lease(tmp_path, run_id="theirs")
        time.sleep(0.5)
        with pytest.raises(LockLostError, match="another run took over"):
            lock.ensure_held()
    assert content(tmp_path)["run_id"] == "theirs"


def test_a_run_whose_lock_file_was_deleted_stops(tmp_path: Path) -> None:
    with lake_lock(str(tmp_path), "mine", 0.3, 0) as lock:
        (tmp_path / LOCK_FILE).unlink()
        time.sleep(0.5)
        with pytest.raises(LockLostError):
            lock.ensure_held()


class FaultyDisk(LocalStorage):
    """A disk that fails as it is told: writes but loses the reply, or does not write at all."""

    def __init__(self) -> None:
        self.fault = ""

    def write_if(self, uri: str, data: bytes, tag: str | None) -> str | None:
        if self.fault == "down":
            raise StorageError("down")
        written = super().write_if(uri, data, tag)
        return None if self.fault == "reply lost" else written


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[tuple[FaultyDisk, LakeLock]]:
    disk = FaultyDisk()
    lock = LakeLock(disk, join(str(tmp_path), LOCK_FILE), "mine", 0.3)
    lock.acquire(0)
    yield disk, lock
    disk.fault = ""
    lock.release()


def test_a_reply_that_was_lost_does_not_lose_the_lock(faulty: tuple[FaultyDisk, LakeLock], tmp_path: Path) -> None:
    disk, lock = faulty
    disk.fault = "reply lost"
    first = content(tmp_path)["beat"]
    time.sleep(0.5)
    lock.ensure_held()
    assert content(tmp_path)["beat"] != first


def test_a_lock_that_was_taken_without_a_reply_is_held(tmp_path: Path) -> None:
    """As it was, the run then waited for itself to die."""
    disk = FaultyDisk()
    disk.fault = "reply lost"
    lock = LakeLock(disk, join(str(tmp_path), LOCK_FILE), "mine", 60)
    lock.acquire(0)
    disk.fault = ""
    lock.ensure_held()
    assert content(tmp_path)["run_id"] == "mine"
    lock.release()
    assert not (tmp_path / LOCK_FILE).exists()


def test_a_store_that_is_down_for_longer_than_the_lease_stops_the_run_until_it_is_back(
    faulty: tuple[FaultyDisk, LakeLock],
) -> None:
    disk, lock = faulty
    disk.fault = "down"
    time.sleep(0.4)
    with pytest.raises(StorageError):
        lock.ensure_held()
    disk.fault = ""
    lock.ensure_held()
