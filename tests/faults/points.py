"""Within a process under test: named points, a trace of those that were reached, and what is planned to happen there.

The plan is in the environment variable `FAULTS`, as JSON:

    {"trace": FILE, "point": "ops/state.json progress: before", "nth": 1, "do": "kill"}

In place of `point`, `total` counts all points; with `delay`, so many seconds pass before the kill. `do` is `kill` (the
whole process group, at once), `lose` (only after a write: it is done, but an error is raised as if it was not),
`hold` (wait until the file `release` is there) or `stop` (the whole process group sleeps until somebody wakes it).
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

VARIABLE = "FAULTS"
BEFORE, INSIDE, AFTER = "before", "inside", "after"
LONGEST_HOLD_S = 120


class LostReply(Exception):
    """What a caller sees when a write was done and its reply got lost."""


class Points:
    """Counts the points that are reached and does what is planned at one of them."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.begin(plan)

    def begin(self, plan: dict[str, Any]) -> None:
        """Count from the beginning, for the next run of this process."""
        self.plan = plan
        self._trace = os.open(plan["trace"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._hits: Counter[str] = Counter()
        self._total = 0
        self._lock = threading.Lock()
        self._within = threading.local()

    @classmethod
    def planned(cls) -> Points | None:
        """Return what the environment plans, if anything."""
        text = os.environ.get(VARIABLE)
        return cls(json.loads(text)) if text else None

    def reached(self, point: str, note: str = "") -> None:
        """Write the point to the trace, then do what is planned."""
        with self._lock:
            self._hits[point] += 1
            self._total += 1
            planned = self._is_planned(point)
            # On disk before the kill: this is the proof that the point was reached.
            os.write(self._trace, f"{point}{note}\n".encode())
            os.fsync(self._trace)
            if planned and self.plan["do"] == "kill" and not self.plan.get("delay"):
                _kill()
            if planned and self.plan["do"] == "stop":
                os.killpg(0, signal.SIGSTOP)
        if planned and self.plan["do"] == "kill":
            threading.Timer(self.plan["delay"], _kill).start()
        if planned and self.plan["do"] == "hold":
            self._hold()
        if planned and self.plan["do"] == "lose":
            raise LostReply(f"{point}: the reply was lost")

    def around(self, name: str, write: Callable[[], Any]) -> Any:
        """Do a write between two points; what it calls itself within counts as a part of it."""
        if getattr(self._within, "name", None) is not None:
            return write()
        self.reached(f"{name}: {BEFORE}")
        self._within.name = name
        try:
            done = write()
        finally:
            self._within.name = None
        self.reached(f"{name}: {AFTER}")
        return done

    def inside(self) -> None:
        """Tell that the write under way in this thread has done its half."""
        name = getattr(self._within, "name", None)
        if name is not None:
            self.reached(f"{name}: {INSIDE}")

    def kill_at_first_data_file(self, table: str, name: str) -> None:
        """Start to watch a table: killed as soon as there is a new data file, which no commit names yet."""
        point = f"{name}: {INSIDE}"
        if self.plan.get("point") != point:
            return
        before, commits = _data_files(table), _commits(table)

        def watch() -> None:
            while _data_files(table) <= before:
                time.sleep(0.0005)
            self.reached(point, " (no commit yet)" if _commits(table) == commits else " (too late)")

        threading.Thread(target=watch, daemon=True).start()

    def _is_planned(self, point: str) -> bool:
        if "total" in self.plan:
            return self._total == int(self.plan["total"])
        return self.plan.get("point") == point and self._hits[point] == self.plan.get("nth", 1)

    def _hold(self) -> None:
        deadline = time.monotonic() + LONGEST_HOLD_S
        while not Path(self.plan["release"]).exists() and time.monotonic() < deadline:
            time.sleep(0.02)


def _kill() -> None:
    os.killpg(0, signal.SIGKILL)
    time.sleep(LONGEST_HOLD_S)


def _data_files(table: str) -> set[str]:
    return {str(path) for path in Path(table).rglob("*.parquet") if "_delta_log" not in path.parts}


def _commits(table: str) -> int:
    return len(list(Path(table, "_delta_log").glob("*.json")))
