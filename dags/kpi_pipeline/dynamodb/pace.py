"""How fast to send: one pace for all threads, so that they slow down together.

Two things hold requests back. After a refusal all threads wait: exponential backoff with full jitter, counted in
refusals without anything taken in between. And the rate is cut to less than what was taken lately, and grows again
slowly, so that few requests are sent in vain when the capacity is used up.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from kpi_pipeline.errors import TooManyRetriesError
from kpi_pipeline.settings import WriterSettings

FIRST_RATE = 500.0
LOWEST_RATE = 25.0
CUT = 0.3  # by how much the rate falls when a whole request is refused; less when a part of it is
# Growth a second, as a share: quick up to near the rate at which the last refusal came, then slow.
QUICK_GROWTH = 1.0
SLOW_GROWTH = 0.1
NEAR = 0.9
HEADROOM = 1.5  # a rate higher than so many times what was taken lately is not what held requests back
MEASURE_S = 0.5  # the time over which what is taken is averaged


class Turn(NamedTuple):
    """When a request may be sent, as long as there was no other refusal."""

    slot: float
    events: int


class Pace:
    """Waits before requests; it learns from each answer. Rates are in write units a second."""

    def __init__(
        self,
        settings: WriterSettings,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """Keep to the settings; `sleep` may return something true to tell that waiting is over."""
        self._settings = settings
        self._clock, self._sleep, self._draw = clock, sleep, draw
        self._lock = threading.Lock()
        self._ceiling: float | None = settings.max_write_rate or None
        self._rate = self._ceiling
        self._refused_rate = 0.0
        self._next_slot = 0.0
        self._pause_began = float("-inf")
        self._pause_ends = float("-inf")
        self._refusals = 0
        self._events = 0
        self._taken_at = clock()
        self._taken_rate = 0.0

    @property
    def rate(self) -> float | None:
        """The rate kept at the moment, or None for no limit."""
        return self._rate

    def wait(self, units: int) -> float:
        """Wait for the turn of a request of so many units and return the time it is sent."""
        turn = self.reserve(units)
        while True:
            left = self.seconds_until(turn)
            if left is None:
                turn = self.reserve(units)
            elif left <= 0 or self._sleep(left):
                return self._clock()

    def reserve(self, units: int) -> Turn:
        """Return the turn of a request of so many units; the next one's comes after it."""
        with self._lock:
            slot = max(self._clock(), self._next_slot, self._pause_ends)
            if self._rate is not None:
                self._next_slot = slot + units / self._rate
            return Turn(slot, self._events)

    def seconds_until(self, turn: Turn) -> float | None:
        """Return how long to wait for a turn, or None when a refusal has made it void since."""
        with self._lock:
            return None if turn.events != self._events else turn.slot - self._clock()

    def taken(self, units: int) -> None:
        """Note that DynamoDB took items of so many units."""
        with self._lock:
            self._refusals = 0
            self._taken_rate = self._present_taken_rate() + units / MEASURE_S
            self._taken_at = self._clock()
            if self._rate is not None:
                growth = QUICK_GROWTH if self._rate < NEAR * self._refused_rate else SLOW_GROWTH
                self._rate = min(self._rate + growth * units, self._ceiling or float("inf"))

    def refused(self, sent_at: float, units: int, share: float, reason: str) -> None:
        """Note that items of so many units were refused, that share of a request sent at that time.

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
            self._rate = self._reduced_rate(share)
            longest = min(
                self._settings.longest_wait_seconds, self._settings.first_wait_seconds * 2 ** (self._refusals - 1)
            )
            self._pause_began = now
            self._pause_ends = now + self._draw(0.0, longest)
            self._next_slot = now + min(units / self._rate, self._settings.longest_wait_seconds)
            self._events += 1

    def _reduced_rate(self, share: float) -> float:
        taken = self._present_taken_rate() or FIRST_RATE
        self._refused_rate = taken if self._rate is None else min(self._rate, HEADROOM * taken)
        return max((1 - CUT * share) * self._refused_rate, min(LOWEST_RATE, self._ceiling or LOWEST_RATE))

    def _present_taken_rate(self) -> float:
        return self._taken_rate * math.exp((self._taken_at - self._clock()) / MEASURE_S)
