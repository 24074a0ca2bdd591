"""One process and its children: wall seconds, CPU seconds and the most memory that they held together."""

from __future__ import annotations

import ctypes
import json
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

_INTERVAL_S = 0.25
# The system call `kcmp` by machine, and its question whether two processes have one memory.
_KCMP = {"x86_64": 312, "aarch64": 272}
_KCMP_VM = 1


class BenchError(Exception):
    """A measured command failed, or its results are wrong."""


@dataclass(frozen=True)
class Measurement:
    """Of one run: `memory_mb` is the peak of the sum over all its processes, shared pages counted once."""

    seconds: float
    cpu_seconds: float
    memory_mb: float


def measure(command: Sequence[str], env: Mapping[str, str], log: Path) -> Measurement:
    """Run a command; its output goes to `log`.

    Raises:
        BenchError: it failed.
    """
    started = time.monotonic()
    peak = 0
    cpu: dict[int, float] = {}
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=dict(env), stdout=output, stderr=output, stdin=subprocess.DEVNULL)
        try:
            parent = psutil.Process(process.pid)
            while process.poll() is None:
                peak = max(peak, _sample(parent, cpu))
                time.sleep(_INTERVAL_S)
        finally:
            with suppress(ProcessLookupError):
                process.kill()
    if process.returncode != 0:
        tail = "\n".join(log.read_text("utf-8", errors="replace").splitlines()[-15:])
        raise BenchError(f"{command[0]} ended with {process.returncode}; its last lines ({log}):\n{tail}")
    return Measurement(time.monotonic() - started, sum(cpu.values()), peak / 1e6)


def steps_of(lake: Path) -> list[dict[str, Any]]:
    """Return the steps of the newest run of a lake, with seconds and bytes, and the sum of them."""
    newest = max(lake.glob("runs/*/result.json"), key=lambda path: path.stat().st_mtime)
    steps: list[dict[str, Any]] = json.loads(newest.read_text("utf-8"))["steps"]
    numbers = {key for step in steps for key in step if key != "name"}
    return [*steps, {"name": "total"} | {key: sum(step.get(key, 0) for step in steps) for key in numbers}]


def share_memory(pid: int, other: int) -> bool:
    """Whether two processes are in one memory, as when Java starts another program and that has not begun yet.

    Each would be measured as holding all of it. False where the system can't tell.
    """
    call = _KCMP.get(platform.machine()) if sys.platform == "linux" else None
    return call is not None and ctypes.CDLL(None).syscall(call, pid, other, _KCMP_VM, 0, 0) == 0


def _sample(parent: psutil.Process, cpu: dict[int, float]) -> int:
    memory = 0
    with suppress(psutil.NoSuchProcess):
        for process in [parent, *parent.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                times = process.cpu_times()
                cpu[process.pid] = times.user + times.system
                used = process.memory_full_info().pss if sys.platform == "linux" else process.memory_info().rss
                memory += 0 if share_memory(process.pid, process.ppid()) else used
    return memory
