"""What is started is stopped, on each way out."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tools.processes import run_to_end
from tools.toolchain import ROOT

# A parent that starts, through run_to_end, a shell with a child of its own.
PARENT = """
import sys
from tools.processes import StoppedBySignal, run_to_end, signals_raise
try:
    with signals_raise():
        sys.exit(run_to_end(["/bin/sh", "-c", sys.argv[1]], {"PATH": "/usr/bin:/bin"}))
except StoppedBySignal as stop:
    sys.exit(stop.exit_code)
"""


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


def is_alive(process: int) -> bool:
    """Not so for one that has ended, even if nobody has asked for its exit code yet."""
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_the_exit_code_is_the_commands() -> None:
    assert run_to_end([sys.executable, "-c", "raise SystemExit(4)"], os.environ) == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_command_and_its_children(number: signal.Signals, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    script = f"sleep 60 & echo $! > {note}.new; mv {note}.new {note}; wait"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, script], env={**os.environ, "PYTHONPATH": str(ROOT)})
    wait_for(note.exists)
    parent.send_signal(number)
    assert parent.wait(20) == 128 + number
    wait_for(lambda: not is_alive(int(note.read_text("ascii"))))
