"""What a KPI is to the rest of the application, what it is computed from, and exact division."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F


@dataclass(frozen=True)
class KpiInputs:
    """The frames that KPIs are computed from, for whole dates. Listens that wait for their song are in none of them.

    - `listens`: listen_date, listen_hour, user_id, track_id; one row per unique listen over all files
    - `plays`: (listen_date, track_id) with play_count, and plays_by_hour, which `counting` reads
    - `listener_days`: (listen_date, user_id) with listen_count and total_listening_time_ms
    - `genre_listeners`: (listen_date, track_genre) with unique_listeners
    - `hour_listeners`: (listen_date, listen_hour) with unique_listeners
    - `genre_plays`: (listen_date, track_genre, track_id) with play_count and the song's attributes; a listen counts in
      each genre of its track
    - `genre_days`: (listen_date, track_genre) with sums over these: listen_count, total_listening_time_ms, popularity
      (of each play), tracks, and track_durations_ms (each track once)
    - `top_songs`: the rows of that table, as others name the first of them
    - `songs`: (track_id, track_genre) with track_name, artists, album_name, popularity, duration_ms
    - `tracks`: track_id with the same attributes but the genre, those of its most popular song
    - `artists`: (track_id, artist)
    - `users`: user_id with country (NULL where it is not known) and age_band (`unknown` there)
    - `time_zone`: in which dates and hours are cut; `listen_hour` is the instant at which the hour begins
    """

    listens: DataFrame
    plays: DataFrame
    listener_days: DataFrame
    genre_listeners: DataFrame
    hour_listeners: DataFrame
    genre_plays: DataFrame
    genre_days: DataFrame
    top_songs: DataFrame
    songs: DataFrame
    tracks: DataFrame
    artists: DataFrame
    users: DataFrame
    time_zone: str


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
