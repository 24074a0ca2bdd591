"""How fast to send: one pace for all threads, so that they slow down together.

Two things hold requests back. After a refusal all threads wait: exponential backoff with full jitter, counted in
refusals without anything taken in between. And the rate is cut to less than what was taken lately, and grows again
slowly, so that few requests are sent in vain when the capacity is used up.
"""

from __future__ import annotations

import random
import threading
import time
from typing import Callable

from kpi_pipeline.errors import TooManyRetriesError
from kpi_pipeline.settings import WriterSettings

FIRST_RATE = 500.0
LOWEST_RATE = 1.0
CUT = 0.7
GROWTH_PER_SECOND = 0.2
SHORTEST_MEASURE_S = 0.05


class Pace:
    """Waits before requests; told of each answer. Rates are in write units a second."""

    def __init__(
        self,
        settings: WriterSettings,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._settings = settings
        self._clock, self._sleep, self._draw = clock, sleep, draw
        self._lock = threading.Lock()
        self._ceiling: float | None = settings.max_write_rate or None
        self._rate = self._ceiling
        self._next_slot = 0.0
        self._pause_began = float("-inf")
        self._pause_ends = float("-inf")
        self._refusals = 0
        self._measured_since = clock()
        self._taken_since = 0.0

    @property
    def rate(self) -> float | None:
        """The rate kept at the moment, or None for no limit."""
        return self._rate

    def wait(self, units: int) -> float:
        """Wait for the turn of a request of so many units and return the time it is sent."""
        with self._lock:
            now = self._clock()
            slot = max(now, self._next_slot)
            if self._rate is not None:
                self._next_slot = max(slot, self._pause_ends) + units / self._rate
        while True:
            with self._lock:
                now = self._clock()
                left = max(slot, self._pause_ends) - now
            if left <= 0:
                return now
            self._sleep(left)

    def taken(self, units: int) -> None:
        """Note that DynamoDB took items of so many units."""
        with self._lock:
            self._refusals = 0
            self._taken_since += units
            if self._rate is not None:
                self._rate = min(self._rate + GROWTH_PER_SECOND * units, self._ceiling or float("inf"))

    def refused(self, sent_at: float, reason: str) -> None:
        """Note a refusal, whole or in part, of a request sent at that time.

        Raises:
            TooManyRetriesError: too many in a row without anything taken in between.
        """
        with self._lock:
            now = self._clock()
            if sent_at < self._pause_ends or sent_at <= self._pause_began:
                return  # sent before the pause that answers it
            self._refusals += 1
            if self._refusals > self._settings.max_retries:
                raise TooManyRetriesError(
                    f"DynamoDB took nothing, {self._refusals} times in a row with growing waits in between: {reason}. "
                    "Nothing is lost: run the delivery again later, with --max-write-rate if capacity is short."
                )
            self._cut_rate(now)
            longest = min(
                self._settings.longest_wait_seconds, self._settings.first_wait_seconds * 2 ** (self._refusals - 1)
            )
            self._pause_began = now
            self._pause_ends = now + self._draw(0.0, longest)
            self._measured_since, self._taken_since = self._pause_ends, 0.0

    def _cut_rate(self, now: float) -> None:
        measured = self._taken_since / max(now - self._measured_since, SHORTEST_MEASURE_S)
        present = self._rate or max(measured, FIRST_RATE)
        self._rate = max(CUT * (min(present, measured) if measured else present), LOWEST_RATE)
        self._next_slot = now
