"""Times the steps of a run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kpi_common.log import log


class Steps:
    """Times the steps of a run, one after another; with a `meter`, they also tell the work that it reads."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.work: dict[str, Counter[str]] = {}
        self.meter: Callable[[], Mapping[str, float]] | None = None

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Log the start and end of a step and keep its seconds; a step that comes twice adds up."""
        log(f"{name} …", step=name)
        started = time.monotonic()
        try:
            yield
        finally:
            spent = time.monotonic() - started
            self.seconds[name] = round(self.seconds.get(name, 0.0) + spent, 3)
        if self.meter is not None:
            self.work.setdefault(name, Counter()).update(self.meter())
        log(f"{name} done", step=name, seconds=round(spent, 2))

    def as_json(self) -> list[dict[str, Any]]:
        """Return each step with its seconds and what else is known of it."""
        return [{"name": name, "seconds": spent, **self._work_of(name)} for name, spent in self.seconds.items()]

    def _work_of(self, name: str) -> dict[str, float]:
        work: Mapping[str, float] = self.work.get(name, {})
        return {what: round(amount, 3) if what.endswith("seconds") else int(amount) for what, amount in work.items()}
