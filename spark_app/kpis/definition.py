"""What a KPI is to the rest of the application, what it is computed from, and exact division."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F


@dataclass(frozen=True)
class KpiInputs:
    """The frames that KPIs are computed from, for whole dates.

    Tracks, songs (a track in one genre) and artists have numbers: these are what large frames are joined, counted
    and ranked by. Where counts are equal, the smaller number of a song or an artist ranks first.

    Hours of a day have numbers too, from 0: `slot` (see `zones.slots_of_a_day`).

    - `listens`: a listen each, once over all files: listen_date, slot, user_id, track_no; known tracks only
    - `plays`: (listen_date, track_no) with play_count, and slot_pairs, the plays in each slot (see `each_slot`)
    - `genre_plays`: (listen_date, track_genre, song_no) with track_no, play_count, popularity, duration_ms
    - `genre_days`: (listen_date, track_genre) with unique_listeners and what `genre_plays` sum up to
      (see `inputs.sum_up_genres`); `genres_summed_up` gives it
    - `hour_listeners`: (listen_date, slot) with listen_hour and unique_listeners
    - `songs`: song_no, in the order of popularity (highest first), then track_id; with the song row's attributes
    - `tracks`: track_no with track_id and the track's own attributes
    - `artists`: artist_no, in the order of names (UTF-8 bytes), with artist
    - `track_artists`: (track_no, artist_no)
    - `slots`: how many slots a day has
    """

    listens: DataFrame
    plays: DataFrame
    genre_plays: DataFrame
    genres_summed_up: Callable[[], DataFrame]
    hour_listeners: DataFrame
    songs: DataFrame
    tracks: DataFrame
    artists: DataFrame
    track_artists: DataFrame
    slots: int

    @property
    def genre_days(self) -> DataFrame:
        """See the class."""
        return self.genres_summed_up()


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


def pairs_of(slots: int) -> int:
    """How many numbers hold the plays of so many slots."""
    return -(-slots // 2)


def sum_of_pairs(pairs: str, slots: int) -> Column:
    """Aggregate: the sum of arrays of pairs. Two slots are added up as one bigint, which halves the work.

    A slot has 32 bits: an hour of up to 4 billion listens.
    """
    return _array(f"sum({pairs}[{pair}])" for pair in range(pairs_of(slots)))


def each_slot(pairs: str, slots: int) -> Column:
    """The plays in each slot, of an array of pairs: in its element n, slot 2n has the lower half, 2n + 1 the upper."""
    return _array(_of_slot(pairs, slot) for slot in range(slots))


def tracks_in_each_slot(pairs: str, slots: int) -> Column:
    """Aggregate: in how many of the rows each slot has plays."""
    return _array(f"count_if({_of_slot(pairs, slot)} > 0)" for slot in range(slots))


def most_in_each_slot(pairs: str, slots: int) -> Column:
    """Aggregate: the most plays that a row has in each slot."""
    return _array(f"max({_of_slot(pairs, slot)})" for slot in range(slots))


def _of_slot(pairs: str, slot: int) -> str:
    return f"(shiftrightunsigned({pairs}[{slot // 2}], {slot % 2 * 32}) & 4294967295L)"


def _array(elements: Iterable[str]) -> Column:
    """An array of SQL texts: each operation on a Column is a call into Java, and here there would be hundreds."""
    return F.expr(f"array({', '.join(elements)})")


_NUMBER_BITS = 32


def ranked_first(count: Column, number: Column, places: int) -> Column:
    """Aggregate to an array of the `places` highest counts, best first; of equal counts, the smaller number first.

    Count and number share one bigint, so that whole groups are sorted without comparing rows; `ranks` takes them apart.
    """
    key = number.cast("bigint") - F.call_function("shiftleft", count.cast("bigint"), F.lit(_NUMBER_BITS))
    return F.slice(F.sort_array(F.collect_list(key)), 1, places)


def ranks(frame: DataFrame, column: str, number: str) -> DataFrame:
    """Make a row of each element of a `ranked_first` column: rank from 1, the number, and play_count."""
    others = [name for name in frame.columns if name != column]
    rows = frame.select(*others, F.posexplode(column).alias("place", "key"))
    low = F.col("key").bitwiseAND(F.lit((1 << _NUMBER_BITS) - 1))
    count = F.shiftright(low - F.col("key"), _NUMBER_BITS)
    return rows.select(
        *others, (F.col("place") + 1).alias("rank"), low.cast("int").alias(number), count.alias("play_count")
    )


def exact_ratio(numerator: Column, denominator: Column, scale: int) -> Column:
    """Divide two non-negative integers once, exactly, and round half up: decimal(18, scale).

    round_half_up(n / d, s) = floor((2 n 10^s + d) / (2 d)) / 10^s, all in integers.
    """
    scaled = numerator.cast("decimal(28,0)") * F.lit(Decimal(2 * 10**scale))
    divisor = denominator.cast("decimal(19,0)")
    quotient = F.call_function("div", (scaled + divisor).cast("decimal(38,0)"), divisor * F.lit(Decimal(2)))
    return (quotient.cast("decimal(20,0)") * F.lit(Decimal(1).scaleb(-scale))).cast(f"decimal(18,{scale})")
