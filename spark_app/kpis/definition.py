"""What a KPI is to the rest of the application, what it is computed from, and exact division."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F


@dataclass(frozen=True)
class KpiInputs:
    """The frames that KPIs are computed from, for whole dates.

    A track has a number, `track_no`, beside its track_id: numbers are what large frames are joined by.

    - `listens`: a listen each, once over all files: listen_date, listen_hour, user_id, track_no; known tracks only
    - `plays`: (listen_date, listen_hour, track_no) with play_count
    - `genre_plays`: (listen_date, track_no, track_genre) with play_count, track_id and the song row's attributes
    - `genre_listeners`: (listen_date, track_genre) with unique_listeners
    - `hour_listeners`: (listen_date, listen_hour) with unique_listeners
    - `songs`: (track_no, track_genre) with track_id and the song row's attributes
    - `tracks`: track_no with track_id and the track's own attributes
    """

    listens: DataFrame
    plays: DataFrame
    genre_plays: DataFrame
    genre_listeners: DataFrame
    hour_listeners: DataFrame
    songs: DataFrame
    tracks: DataFrame


@dataclass(frozen=True)
class Kpi:
    """One KPI table: its name under `kpis/`, its key (listen_date comes by itself), and how it is computed.

    `rank` names the last key column if it is a rank that must run 1, 2, 3 … without a gap.
    """

    name: str
    key: tuple[str, ...]
    compute: Callable[[KpiInputs], DataFrame]
    rank: str | None = None

    @property
    def group(self) -> tuple[str, ...]:
        """Key columns without the rank."""
        return tuple(column for column in self.key if column != self.rank)


def exact_ratio(numerator: Column, denominator: Column, scale: int) -> Column:
    """Divide two non-negative integers once, exactly, and round half up: decimal(18, scale).

    round_half_up(n / d, s) = floor((2 n 10^s + d) / (2 d)) / 10^s, all in integers.
    """
    scaled = numerator.cast("decimal(28,0)") * F.lit(Decimal(2 * 10**scale))
    divisor = denominator.cast("decimal(19,0)")
    quotient = F.call_function("div", (scaled + divisor).cast("decimal(38,0)"), divisor * F.lit(Decimal(2)))
    return (quotient.cast("decimal(20,0)") * F.lit(Decimal(1).scaleb(-scale))).cast(f"decimal(18,{scale})")
