"""From staged listens and songs to the frames that KPIs share.

Distinct listeners are the dear part of it. Each listener of a day is one row, with a bit for each genre and for each
hour of the day. Of these bits, equal bytes are counted over all listeners of
the day, and the counts of bytes give the counts of bits: the numbers of distinct listeners.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from spark_app.kpis.definition import KpiInputs, pairs_of, ranked_first
from spark_app.kpis.song_catalogue import current_tracks
from spark_app.spark.columns import instant_to_local, local_to_instant, names_list
from spark_app.spark.hash_join import MOST_KEYS, join_by_hash
from spark_app.spark.time_zones import changes_within_an_hour, slots_of_a_day

SECONDS_PER_HOUR = 3600
_MICROS = 1_000_000
SONGS_PER_GENRE = 3
_BITS = 64  # of a bigint


@dataclass(frozen=True)
class Catalogue:
    """The current songs, with the numbers that KPIs go by (see `KpiInputs`), and all genres in order.

    `genre_masks`: track_id, with track_no, and genres_0, genres_1 …, which hold a bit for each genre of the track.
    `at_hand`: they are few enough to be in every executor.
    """

    songs: DataFrame
    tracks: DataFrame
    genre_masks: DataFrame
    artists: DataFrame
    track_artists: DataFrame
    genres: tuple[str, ...]
    at_hand: bool


def unique_listens(staged: DataFrame, dates_of_several_files: Sequence[str] | None = None) -> DataFrame:
    """Grain: (user_id, track_id, listen_time), each once however many files hold it.

    Within a file listens are unique, so only dates with listens of several files (None: all) need a look.
    """
    columns = ["listen_date", "user_id", "track_id", "listen_time"]
    if dates_of_several_files is None:
        return staged.select(*columns).distinct()
    if not dates_of_several_files:
        return staged.select(*columns)
    several = F.col("listen_date").isin([F.lit(date).cast("date") for date in dates_of_several_files])
    repeated = staged.where(several).select(*columns).distinct()
    return staged.where(~several).select(*columns).unionAll(repeated)


def hour_start(instant: Column, zone: str) -> Column:
    """The instant at which the instant's hour of the zone began.

    A doubled hour gives two hours. Where the clock is changed within an hour, an hour begins with the change.
    """
    micros = F.unix_micros(instant)
    into_hour = F.pmod(F.unix_micros(instant_to_local(instant, zone)), F.lit(SECONDS_PER_HOUR * _MICROS))
    return F.timestamp_micros(_not_before_a_change(micros - into_hour, micros, zone))


def number_catalogue(songs: DataFrame, keep: Callable[[DataFrame], DataFrame]) -> Catalogue:
    """Number the tracks, songs and artists of the current songs; `keep` holds a frame for the queries to come."""
    told = songs.agg(F.collect_set("track_genre").alias("genres"), F.count(F.lit(1)).alias("rows")).first()
    rows, genres = (told["rows"], tuple(sorted(told["genres"])) or ("",)) if told else (0, ("",))

    def at_hand(frame: DataFrame) -> DataFrame:
        kept = keep(frame)
        return F.broadcast(kept) if rows <= MOST_KEYS else kept

    tracks = at_hand(
        current_tracks(songs).select(F.row_number().over(Window.orderBy("track_id")).alias("track_no"), "*")
    )
    by_popularity = Window.orderBy(F.desc("popularity"), "track_id", "track_genre")
    numbered = songs.join(tracks.select("track_id", "track_no"), on="track_id", how="inner")
    masks = songs.groupBy("track_id").agg(*_genre_masks(genres))
    names = tracks.select("track_no", F.explode(names_list(F.col("artists"))).alias("artist"))
    with ThreadPoolExecutor() as pool:
        kept_songs, kept_masks, artists = pool.map(
            at_hand,
            (
                numbered.select(F.row_number().over(by_popularity).alias("song_no"), "*"),
                tracks.select("track_id", "track_no").join(masks, on="track_id", how="inner"),
                names.select("track_no", F.dense_rank().over(Window.orderBy("artist")).alias("artist_no"), "artist"),
            ),
        )
    return Catalogue(
        songs=kept_songs,
        tracks=tracks,
        genre_masks=kept_masks,
        artists=artists.select("artist_no", "artist").distinct(),
        track_artists=artists.select("track_no", "artist_no"),
        genres=genres,
        at_hand=rows <= MOST_KEYS,
    )


def known_listens(listens: DataFrame, catalogue: Catalogue, zone: str, *, by_hash: bool = False) -> DataFrame:
    """Unique listens of known tracks (waiting ones drop out here): numbers instead of names, and the genres' bits.

    `by_hash` is how tracks are looked up; see `hashed_keys`.
    """
    if by_hash:
        known = join_by_hash(listens, catalogue.genre_masks, "track_id", "track_no").where(
            F.col("track_no").isNotNull()
        )
    else:
        known = listens.join(catalogue.genre_masks, on="track_id", how="inner")
    return known.select(
        "listen_date",
        _slot(zone).alias("slot"),
        "user_id",
        "track_no",
        *_mask_names(catalogue.genres),
    )


def day_listeners(known: DataFrame, genres: Sequence[str]) -> DataFrame:
    """Grain: (listen_date, position, byte): how many listeners of the day have this byte there in their bits.

    A listener's bits are those of the genres and then of the slots in which they listened, eight a position; a byte of
    0 is left out but at position 0. There, `listens` and `genre_listens` add up to those of the day, counted on another
    way than the KPIs are, for the audit.
    """
    names = _mask_names(genres)
    slot = F.call_function("shiftleft", F.lit(1).cast("bigint"), F.col("slot"))
    users = known.groupBy("listen_date", "user_id").agg(
        *(F.bit_or(name).alias(name) for name in names),
        F.bit_or(slot).alias("slots"),
        F.count(F.lit(1)).alias("listens"),
        F.sum(sum((F.bit_count(name) for name in names), start=F.lit(0))).alias("genre_listens"),
    )
    parts = [(name, 8 * part) for name in (*names, "slots") for part in range(_BITS // 8)]
    pairs = [f"{at}, cast(shiftrightunsigned({name}, {bits}) & 255 AS int)" for at, (name, bits) in enumerate(parts)]
    stacked = F.expr(f"stack({len(parts)}, {', '.join(pairs)}) AS (position, byte)")
    rows = users.select("listen_date", "listens", "genre_listens", stacked)
    counted = rows.where((F.col("position") == 0) | (F.col("byte") != 0)).groupBy("listen_date", "position", "byte")
    return counted.agg(F.count(F.lit(1)).alias("users"), F.sum("listens"), F.sum("genre_listens")).toDF(
        "listen_date", "position", "byte", "users", "listens", "genre_listens"
    )


def day_totals(day: DataFrame) -> DataFrame:
    """Grain: listen_date, with listens and genre_listens (a listen counts in each genre of its track)."""
    once = day.where(F.col("position") == 0).groupBy("listen_date")
    return once.agg(F.sum("listens").alias("listens"), F.sum("genre_listens").alias("genre_listens"))


def genre_listeners(day: DataFrame, genres: Sequence[str]) -> DataFrame:
    """Grain: (listen_date, track_genre), with unique_listeners."""
    counts = _bit_counts(day).where(F.col("bit") < _BITS * len(_mask_names(genres)))
    genre = F.element_at(_literals(genres), F.col("bit") + 1).alias("track_genre")
    return counts.select("listen_date", genre, "unique_listeners")


def hour_listeners(day: DataFrame, genres: Sequence[str], zone: str) -> DataFrame:
    """Grain: (listen_date, slot), with listen_hour and unique_listeners."""
    first = _BITS * len(_mask_names(genres))
    counts = _bit_counts(day).where(F.col("bit") >= first)
    numbered = counts.select("listen_date", (F.col("bit") - F.lit(first)).alias("slot"), "unique_listeners")
    return numbered.withColumn("listen_hour", _hour_of_slot(zone))


def count_plays(known: DataFrame, zone: str) -> DataFrame:
    """Grain: (listen_date, track_no), with play_count, and slot_pairs, the plays in each slot (see `each_slot`)."""
    in_pairs = known.select(
        "listen_date",
        "track_no",
        F.expr("cast(slot div 2 AS int)").alias("pair"),
        F.expr("if(slot % 2 = 0, 1L, shiftleft(1L, 32))").alias("one"),
    )
    names = [f"pair_{pair}" for pair in range(pairs_of(slots_of_a_day(zone).count))]
    sums = [F.expr(f"sum(if(pair = {pair}, one, 0L))").alias(name) for pair, name in enumerate(names)]
    counted = in_pairs.groupBy("listen_date", "track_no").agg(*sums)
    both = F.expr(" + ".join(names)).alias("both")
    summed = counted.select("listen_date", "track_no", both, F.array(*names).alias("slot_pairs"))
    play_count = F.expr("(both & 4294967295L) + shiftrightunsigned(both, 32)").alias("play_count")
    return summed.select("listen_date", "track_no", play_count, "slot_pairs")


def count_genre_plays(plays: DataFrame, songs: DataFrame) -> DataFrame:
    """Grain: (listen_date, track_genre, song_no), with track_no, play_count, popularity and duration_ms."""
    by_day = plays.select("listen_date", "track_no", "play_count")
    attributes = songs.select("track_no", "track_genre", "song_no", "popularity", "duration_ms")
    return by_day.join(attributes, on="track_no", how="inner")


def sum_up_genres(genre_plays: DataFrame, listeners: DataFrame) -> DataFrame:
    """Grain: (listen_date, track_genre), with unique_listeners and sums over the genre's songs that were played.

    The sums: listen_count, total_listening_time_ms, tracks (how many), track_durations (ms, each track once),
    popularity (over listens), and top_songs (see `ranked_first`).
    """
    keys = ["listen_date", "track_genre"]
    sums = genre_plays.groupBy(*keys).agg(
        F.sum("play_count").alias("listen_count"),
        F.sum(F.col("play_count") * F.col("duration_ms")).alias("total_listening_time_ms"),
        F.sum("duration_ms").alias("track_durations"),
        F.count(F.lit(1)).alias("tracks"),
        F.sum(F.col("play_count") * F.col("popularity")).alias("popularity"),
        ranked_first(F.col("play_count"), F.col("song_no"), SONGS_PER_GENRE).alias("top_songs"),
    )
    return sums.join(listeners, on=keys, how="inner")


def kpi_inputs(known: DataFrame, day: DataFrame, plays: DataFrame, catalogue: Catalogue, zone: str) -> KpiInputs:
    """Put together what KPIs are computed from; see `known_listens`, `day_listeners` and `count_plays`."""
    genre_plays = count_genre_plays(plays, catalogue.songs)
    genre_days = sum_up_genres(genre_plays, genre_listeners(day, catalogue.genres))
    return KpiInputs(
        listens=known.select("listen_date", "slot", "user_id", "track_no"),
        plays=plays,
        genre_plays=genre_plays,
        genres_summed_up=lambda: genre_days,
        hour_listeners=hour_listeners(day, catalogue.genres, zone),
        songs=catalogue.songs,
        tracks=catalogue.tracks,
        artists=catalogue.artists,
        track_artists=catalogue.track_artists,
        slots=slots_of_a_day(zone).count,
    )


def _mask_names(genres: Sequence[str]) -> list[str]:
    return [f"genres_{number}" for number in range(1 + (len(genres) - 1) // _BITS)]


def _genre_masks(genres: Sequence[str]) -> list[Column]:
    number = F.call_function("array_position", _literals(genres), F.col("track_genre")) - 1
    bit = F.call_function("shiftleft", F.lit(1).cast("bigint"), F.pmod(number, F.lit(_BITS)).cast("int"))
    of_mask = F.floor(number / F.lit(_BITS))
    return [
        F.bit_or(F.when(of_mask == position, bit).otherwise(F.lit(0))).alias(name)
        for position, name in enumerate(_mask_names(genres))
    ]


def _literals(texts: Sequence[str]) -> Column:
    """An array of texts, as one literal: each `F.lit` would be a call into Java of its own."""
    return F.from_json(F.lit(json.dumps(texts)), "array<string>")


def _bit_counts(day: DataFrame) -> DataFrame:
    """Grain: (listen_date, bit), with unique_listeners; bits are numbered over all positions."""
    bits = day.select(
        "listen_date", "position", "byte", "users", F.explode(F.array(*map(F.lit, range(8)))).alias("bit")
    )
    is_set = F.expr("(shiftright(byte, bit) & 1) = 1")
    number = (F.col("position") * F.lit(8) + F.col("bit")).alias("bit")
    counted = bits.where(is_set).select("listen_date", number, "users").groupBy("listen_date", "bit")
    return counted.agg(F.sum("users").alias("unique_listeners"))


def _not_before_a_change(start: Column, until: Column, zone: str, day: Column | None = None) -> Column:
    """The last change of the zone's clock within an hour that lies between the two (microseconds), else `start`.

    With `day`, only changes on that date of the zone count.
    """
    changes = changes_within_an_hour(zone)
    if not changes:
        return start
    there = F.array(
        *(
            F.struct(F.lit(change.instant * _MICROS).alias("at"), F.lit(change.date).cast("date").alias("date"))
            for change in changes
        )
    )
    if day is not None:
        there = F.filter(there, lambda change: change["date"] == day)
    return F.greatest(start, F.array_max(F.filter(there, lambda change: change["at"] <= until))["at"])


def _day_start(zone: str) -> Column:
    """The instant at which listen_date begins in the zone, in seconds since 1970."""
    if zone == "UTC":
        return F.unix_date("listen_date").cast("bigint") * F.lit(24 * SECONDS_PER_HOUR)
    return F.unix_seconds(local_to_instant(F.col("listen_date").cast("timestamp"), zone))


def _slot(zone: str) -> Column:
    """The slot of `listen_time` in its `listen_date`, from 0."""
    if zone == "UTC":  # without a detour through the clock's fields
        into_day = F.pmod(F.unix_micros("listen_time"), F.lit(24 * SECONDS_PER_HOUR * _MICROS))
        return F.call_function("div", into_day, F.lit(SECONDS_PER_HOUR * _MICROS)).cast("int")
    seconds = F.unix_seconds(hour_start(F.col("listen_time"), zone)) - _day_start(zone)
    return F.floor(seconds / F.lit(slots_of_a_day(zone).seconds)).cast("int")


def _hour_of_slot(zone: str) -> Column:
    """The instant at which the hour begins that has its beginning in `slot` of `listen_date`."""
    length = slots_of_a_day(zone).seconds
    start = (_day_start(zone) + F.col("slot") * F.lit(length)) * F.lit(_MICROS)
    within = start + F.lit(length * _MICROS - 1)
    return F.timestamp_micros(_not_before_a_change(start, within, zone, F.col("listen_date")))
