"""Counting over very many listens, each function another way than its plain formulation, which a test holds it to.

docs/speed.md has what each of them saves. They gain by counting each date's listens by track and by listener once,
with all hours and genres beside one another in a row, where plain queries would have a row for each.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from spark_app.kpis.hours import hour_number, hour_of_number, hours_per_day

MAX_GENRES = 512  # of which a listener's day has a bit each; with more, listeners are counted by plain queries
_BITS = 64  # of a bigint
_PARTS = 16


def count_plays(listens: DataFrame, track: str, zone: str) -> DataFrame:
    """Grain: (listen_date, `track`), with play_count and plays_by_hour, an array by the hour's number in its date."""
    numbered = listens.select("listen_date", track, hour_number(zone).alias("hour_number"))
    numbers = range(hours_per_day(zone))
    per_hour = [F.expr(f"count_if(hour_number = {number})").cast("int").alias(f"hour_{number}") for number in numbers]
    counted = numbered.groupBy("listen_date", track).agg(F.count(F.lit(1)).alias("play_count"), *per_hour)
    by_hour = _array(f"hour_{number}" for number in numbers)
    return counted.select("listen_date", track, "play_count", by_hour.alias("plays_by_hour"))


def plays_of_each_hour(plays: DataFrame, zone: str) -> DataFrame:
    """Grain: (listen_date, listen_hour), with listen_count and unique_tracks; `plays` are those of `count_plays`."""
    numbers = range(hours_per_day(zone))
    days = plays.groupBy("listen_date").agg(
        _array(f"sum(plays_by_hour[{number}])" for number in numbers).alias("listen_count"),
        _array(f"count_if(plays_by_hour[{number}] > 0)" for number in numbers).alias("unique_tracks"),
    )
    both = F.posexplode(F.arrays_zip("listen_count", "unique_tracks")).alias("number", "hour")
    hours = days.select("listen_date", both).where(F.col("hour.listen_count") > 0)
    return hours.select("listen_date", hour_of_number(F.col("number"), zone).alias("listen_hour"), "hour.*")


def top_of_each_hour(plays: DataFrame, names: DataFrame, name: str, places: int, zone: str) -> DataFrame:
    """Grain: (listen_date, listen_hour, rank), with `name` and play_count: the most played names of each hour.

    `plays` are those of `count_plays`; `names` has (track_id, `name`), and each name of a track gets its plays.
    Of equal plays, the name that is first by its UTF-8 bytes.
    """
    numbers = range(hours_per_day(zone))
    of_names = plays.join(names, on="track_id", how="inner")
    summed = of_names.groupBy("listen_date", name).agg(
        _array(f"sum(plays_by_hour[{number}])" for number in numbers).alias("by_hour")
    )
    candidates = summed.join(F.broadcast(_enough_plays(of_names, name, places, numbers)), on="listen_date", how="inner")
    found = candidates.where(" OR ".join(f"by_hour[{number}] >= enough[{number}]" for number in numbers))
    hours = found.select("listen_date", name, "enough", F.posexplode("by_hour").alias("number", "play_count"))
    hours = hours.where("play_count >= enough[number]")
    order = Window.partitionBy("listen_date", "number").orderBy(F.desc("play_count"), name)
    ranked = hours.select("*", F.row_number().over(order).alias("rank")).where(F.col("rank") <= places)
    listen_hour = hour_of_number(F.col("number"), zone).alias("listen_hour")
    return ranked.select("listen_date", listen_hour, "rank", name, "play_count")


def _enough_plays(of_names: DataFrame, name: str, places: int, numbers: Iterable[int]) -> DataFrame:
    """Grain: listen_date, with the array `enough`: a name with fewer plays in an hour is surely not in its places.

    The names are cut into parts, and of each part the track is taken that has the most plays in the hour. The best five
    of these (if there are five places) are of five names, which have at least so many plays as the fifth of them.
    """
    parts = of_names.groupBy("listen_date", F.pmod(F.hash(name), F.lit(_PARTS)).alias("part")).agg(
        *(F.expr(f"max(plays_by_hour[{number}])").alias(f"most_{number}") for number in numbers)
    )
    last = [
        f"greatest(1, coalesce(get(sort_array(collect_list(most_{number}), false), {places - 1}), 0))"
        for number in numbers
    ]
    return parts.groupBy("listen_date").agg(_array(last).alias("enough"))


def genre_sets(songs: DataFrame, genres: Sequence[str]) -> DataFrame:
    """Grain: track_id, with genre_count and a bit for each of its genres, 64 in each of genres_0, genres_1 and so on.

    `genres` are all genres; if they are more than MAX_GENRES, there are no bits.
    """
    number = F.call_function("array_position", _literals(genres), F.col("track_genre")) - 1
    bit = F.call_function("shiftleft", F.lit(1).cast("bigint"), F.pmod(number, F.lit(_BITS)).cast("int"))
    word = F.floor(number / F.lit(_BITS))
    bits = [
        F.bit_or(F.when(word == position, bit).otherwise(F.lit(0))).alias(column)
        for position, column in enumerate(_genre_columns(genres))
    ]
    return songs.groupBy("track_id").agg(F.count(F.lit(1)).alias("genre_count"), *bits)


def count_listener_days(
    listens: DataFrame, tracks: DataFrame, track: str, genres: Sequence[str], zone: str
) -> DataFrame:
    """Grain: (listen_date, user_id), with listen_count, genre_listens and total_listening_time_ms; and what they heard.

    `tracks` has by `track` duration_ms and what `genre_sets` gives. A listen counts as many genre_listens as its track
    has genres. `genres_…` and `hours` have a bit for each genre and hour of the date in which the user listened.
    """
    hour = F.call_function("shiftleft", F.lit(1).cast("bigint"), hour_number(zone))
    known = listens.join(tracks, on=track, how="inner")
    return known.groupBy("listen_date", "user_id").agg(
        F.count(F.lit(1)).alias("listen_count"),
        F.sum("genre_count").alias("genre_listens"),
        F.sum("duration_ms").alias("total_listening_time_ms"),
        F.bit_or(hour).alias("hours"),
        *(F.bit_or(column).alias(column) for column in _genre_columns(genres)),
    )


def unique_listeners_of_hours(listener_days: DataFrame, zone: str) -> DataFrame:
    """Grain: (listen_date, listen_hour), with unique_listeners; `listener_days` are those of `count_listener_days`."""
    counted = _count_bits(listener_days, ["hours"])
    return counted.select("listen_date", hour_of_number(F.col("bit"), zone).alias("listen_hour"), "unique_listeners")


def unique_listeners_of_genres(
    listener_days: DataFrame, listens: DataFrame, songs: DataFrame, genres: Sequence[str]
) -> DataFrame:
    """Grain: (listen_date, track_genre), with unique_listeners; `listener_days` are those of `count_listener_days`."""
    if not _genre_columns(genres):
        heard = listens.join(songs.select("track_id", "track_genre"), on="track_id", how="inner")
        distinct = heard.select("listen_date", "track_genre", "user_id").distinct()
        return distinct.groupBy("listen_date", "track_genre").agg(F.count("user_id").alias("unique_listeners"))
    counted = _count_bits(listener_days, _genre_columns(genres))
    genre = F.element_at(_literals(genres), F.col("bit") + 1).alias("track_genre")
    return counted.select("listen_date", genre, "unique_listeners")


def _count_bits(listener_days: DataFrame, columns: Sequence[str]) -> DataFrame:
    """Grain: (listen_date, bit), with unique_listeners, rows that have the bit set; bits run on over the columns."""
    words = F.expr(
        f"stack({len(columns)}, {', '.join(f'{n}, {name}' for n, name in enumerate(columns))}) AS (word, set)"
    )
    some_set = listener_days.select("listen_date", words).where(F.col("set") != 0)
    bits = some_set.select("*", F.explode(F.sequence(F.lit(0), F.lit(_BITS - 1))).alias("at"))
    bits = bits.where(F.expr("(shiftright(set, at) & 1) = 1"))
    number = (F.col("word") * F.lit(_BITS) + F.col("at")).alias("bit")
    return bits.groupBy("listen_date", number).agg(F.count(F.lit(1)).alias("unique_listeners"))


def _genre_columns(genres: Sequence[str]) -> list[str]:
    return [] if len(genres) > MAX_GENRES else [f"genres_{number}" for number in range(-(-len(genres) // _BITS))]


def _literals(texts: Sequence[str]) -> Column:
    """An array of texts, as one literal: each `F.lit` would be a call into Java of its own."""
    return F.from_json(F.lit(json.dumps(texts)), "array<string>")


def _array(elements: Iterable[str]) -> Column:
    """An array of SQL texts: each operation on a Column is a call into Java, and here there would be hundreds."""
    return F.expr(f"array({', '.join(elements)})")
