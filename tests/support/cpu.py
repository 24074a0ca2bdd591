"""CPU seconds of the tests: of this process and of all that it started, Java too, whether still running or ended."""

from __future__ import annotations

from contextlib import suppress

import psutil


def cpu_seconds() -> float:
    """User and system time so far; of an ended process, if whoever started it waited for its end."""
    here = psutil.Process()
    total = 0.0
    for process in (here, *here.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total
