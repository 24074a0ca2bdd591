"""Waits and rates in virtual time."""

import heapq
import itertools
import random
from collections.abc import Callable

import pytest

from kpi_pipeline.dynamodb.pace import Pace
from kpi_pipeline.errors import TooManyRetriesError
from kpi_pipeline.settings import WriterSettings

BATCH = 25


class Clock:
    """A clock that only moves when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def make(settings: WriterSettings | None = None, draw: Callable[[float, float], float] = max) -> tuple[Pace, Clock]:
    """Return a pace that waits as long as it may (`draw` returns the upper limit)."""
    clock = Clock()
    return Pace(settings or WriterSettings(), clock, clock.sleep, draw), clock


def test_nothing_waits_without_a_limit() -> None:
    pace, clock = make()
    for _ in range(100):
        pace.wait(BATCH)
        pace.taken(BATCH)
    assert clock.now == 0


def test_rate_limit_spaces_requests() -> None:
    pace, clock = make(WriterSettings(max_write_rate=100))
    for _ in range(9):
        pace.wait(BATCH)
        pace.taken(BATCH)
    assert clock.now == pytest.approx(8 * 0.25)


def test_rate_never_grows_over_the_limit() -> None:
    pace, _ = make(WriterSettings(max_write_rate=100))
    pace.refused(pace.wait(BATCH), BATCH, 1.0, "busy")
    for _ in range(1000):
        pace.wait(BATCH)
        pace.taken(BATCH)
    assert pace.rate == 100


def test_waits_double_up_to_the_longest_and_end() -> None:
    pace, clock = make(WriterSettings(first_wait_seconds=1, longest_wait_seconds=5, max_retries=5))
    sent = [pace.wait(1)]
    for _ in range(5):
        pace.refused(sent[-1], 1, 1.0, "busy")
        sent.append(pace.wait(1))
    assert [round(after - before) for before, after in itertools.pairwise(sent)] == [1, 2, 4, 5, 5]
    with pytest.raises(TooManyRetriesError, match=r"took nothing, 6 times in a row .*: busy"):
        pace.refused(clock.now, 1, 1.0, "busy")


def test_waits_are_drawn_from_the_whole_range() -> None:
    drawn: list[tuple[float, float]] = []

    def draw(low: float, high: float) -> float:
        drawn.append((low, high))
        return low

    pace, clock = make(WriterSettings(first_wait_seconds=1, longest_wait_seconds=60), draw)
    for _ in range(4):
        pace.refused(pace.wait(1), 1, 1.0, "busy")
    assert drawn == [(0.0, 1), (0.0, 2), (0.0, 4), (0.0, 8)]
    assert clock.now > 0


def test_answers_to_requests_sent_before_the_pause_count_once() -> None:
    pace, clock = make(WriterSettings(first_wait_seconds=1, max_retries=1))
    sent = [pace.wait(1) for _ in range(16)]
    clock.now += 0.01
    for sent_at in sent:
        pace.refused(sent_at, 1, 1.0, "busy")
    assert pace.wait(1) == pytest.approx(1.01)


def test_what_is_taken_starts_the_count_anew() -> None:
    pace, _ = make(WriterSettings(max_retries=1))
    for _ in range(10):
        sent_at = pace.wait(BATCH)
        pace.taken(20)
        pace.refused(sent_at, 5, 0.2, "busy")


def test_a_refusal_puts_off_turns_reserved_before() -> None:
    pace, clock = make(WriterSettings(first_wait_seconds=1))
    early, waiting = pace.reserve(BATCH), pace.reserve(BATCH)
    assert pace.seconds_until(early) == 0
    pace.refused(clock.now, BATCH, 1.0, "busy")
    assert pace.seconds_until(waiting) is None
    assert pace.wait(BATCH) >= 1


def test_waiting_ends_at_once_when_sleep_says_so() -> None:
    clock = Clock()
    pace = Pace(WriterSettings(max_write_rate=1), clock, lambda _: True)
    pace.wait(BATCH)
    pace.wait(BATCH)
    assert clock.now == 0


@pytest.mark.parametrize(
    ("capacity", "burst", "items", "latency"),
    [
        (1000, 1000, 100_000, 0.005),
        (1000, 1000, 100_000, 0.05),
        (4000, 1000, 100_000, 0.005),
        (20_000, 20_000, 100_000, 0.005),
        (600, 600, 4_000, 0.05),
        (100, 100, 3_000, 0.005),
    ],
)
@pytest.mark.parametrize("seed", [1, 2])
def test_metered_capacity_is_used_with_few_requests(
    capacity: float, burst: float, items: int, latency: float, seed: int
) -> None:
    """A token bucket takes what it has and hands back the rest, as DynamoDB does."""
    seconds, requests = _simulate(capacity, burst, items, latency, seed)
    assert requests <= 1.5 * items / BATCH
    assert seconds <= 1.5 * (items - burst) / capacity + 1


def _simulate(capacity: float, burst: float, items: int, latency: float, seed: int) -> tuple[float, int]:
    """Sixteen writers against a token bucket, event by event; return the seconds and requests that it took."""
    draw = random.Random(seed).uniform
    clock = Clock()
    pace = Pace(WriterSettings(), clock, draw=draw)
    order = itertools.count()
    events: list[tuple[float, int, Callable[[], None]]] = []
    left, in_flight, requests, tokens, filled_at = items, 0, 0, burst, 0.0

    def at(time: float, action: Callable[[], None]) -> None:
        heapq.heappush(events, (time, next(order), action))

    def begin() -> None:
        nonlocal left, in_flight
        size = min(BATCH, left)
        if size:
            left, in_flight = left - size, in_flight + size
            wait(size)
        elif in_flight:
            at(clock.now + 0.001, begin)

    def wait(size: int) -> None:
        turn = pace.reserve(size)
        at(turn.slot, lambda: wait(size) if pace.seconds_until(turn) is None else send(size))

    def send(size: int) -> None:
        sent_at = clock.now
        at(clock.now + draw(0.5, 1.5) * latency, lambda: answer(size, sent_at))

    def answer(size: int, sent_at: float) -> None:
        nonlocal left, in_flight, requests, tokens, filled_at
        tokens = min(burst, tokens + (clock.now - filled_at) * capacity)
        filled_at, taken = clock.now, min(size, int(tokens))
        left, in_flight, requests, tokens = left + size - taken, in_flight - size, requests + 1, tokens - taken
        if taken:
            pace.taken(taken)
        if taken < size:
            pace.refused(sent_at, size - taken, (size - taken) / size, "busy")
        begin()

    for _ in range(16):
        at(0, begin)
    while events:
        time, _, action = heapq.heappop(events)
        clock.now = max(clock.now, time)
        action()
    return clock.now, requests
