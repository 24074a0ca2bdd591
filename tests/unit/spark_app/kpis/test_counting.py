"""What is counted fast equals what its plain formulation counts, on random listens."""

import random
from datetime import datetime, timedelta

import pytest
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from spark_app.kpis import counting
from spark_app.kpis.definition import KpiInputs
from tests.unit.spark_app.kpis.inputs import inputs, song

PLACES = 5


def some_inputs(spark: SparkSession, seed: int, zone: str, genres: int) -> KpiInputs:
    """Some 300 listens by few users of few tracks around two midnights, one of which has a doubled hour in Berlin."""
    pick = random.Random(seed)
    start = datetime(2024, 10, 26, 20)
    listens = [
        (pick.randrange(12), f"t{pick.randrange(30)}", str(start + timedelta(minutes=pick.randrange(1800))))
        for _ in range(300)
    ]
    songs = {(f"t{number}", f"g{pick.randrange(genres):04}") for number in range(28) for _ in range(3)}
    artists = {track: ";".join({f"A{pick.randrange(15)}", f"A{pick.randrange(15)}"}) for track, _ in songs}
    rows = [song(track, genre, pick.randrange(3), artists=artists[track]) for track, genre in sorted(songs)]
    return inputs(spark, listens, rows, zone)


def assert_same_rows(found: DataFrame, plain: DataFrame) -> None:
    rows = sorted(map(tuple, found.select(*plain.columns).collect()))
    assert rows == sorted(map(tuple, plain.collect()))
    assert rows


CASES = [(1, "UTC", 3), (2, "Europe/Berlin", 70), (3, "Australia/Lord_Howe", 150)]


@pytest.mark.parametrize(("seed", "zone", "genres"), CASES)
def test_listeners_of_hours_and_genres(spark: SparkSession, seed: int, zone: str, genres: int) -> None:
    given = some_inputs(spark, seed, zone, genres)
    listens = given.listens
    hours = listens.groupBy("listen_date", "listen_hour").agg(F.count_distinct("user_id").alias("unique_listeners"))
    assert_same_rows(given.hour_listeners, hours)
    assert_same_rows(given.genre_listeners, plain_genre_listeners(given))
    days = listens.join(given.tracks, on="track_id").groupBy("listen_date", "user_id")
    sums = (F.count("track_id").alias("listen_count"), F.sum("duration_ms").alias("total_listening_time_ms"))
    assert_same_rows(given.listener_days, days.agg(*sums))


def plain_genre_listeners(given: KpiInputs) -> DataFrame:
    heard = given.listens.join(given.songs, on="track_id")
    return heard.groupBy("listen_date", "track_genre").agg(F.count_distinct("user_id").alias("unique_listeners"))


def test_listeners_of_more_genres_than_have_a_bit(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "MAX_GENRES", 64)
    given = some_inputs(spark, 4, "UTC", 1000)
    assert given.songs.select("track_genre").distinct().count() > counting.MAX_GENRES
    assert_same_rows(given.genre_listeners, plain_genre_listeners(given))


@pytest.mark.parametrize(("seed", "zone", "genres"), CASES)
def test_plays_of_hours_and_their_top_names(spark: SparkSession, seed: int, zone: str, genres: int) -> None:
    given = some_inputs(spark, seed, zone, genres)
    keys = ["listen_date", "listen_hour"]
    counts = (F.count("user_id").alias("listen_count"), F.count_distinct("track_id").alias("unique_tracks"))
    assert_same_rows(counting.plays_of_each_hour(given.plays, zone), given.listens.groupBy(*keys).agg(*counts))
    of_artists = given.listens.join(given.artists, on="track_id").groupBy(*keys, "artist")
    order = Window.partitionBy(*keys).orderBy(F.desc("play_count"), "artist")
    ranked = of_artists.agg(F.count("user_id").alias("play_count")).withColumn("rank", F.row_number().over(order))
    found = counting.top_of_each_hour(given.plays, given.artists, "artist", PLACES, zone)
    assert_same_rows(found, ranked.where(F.col("rank") <= PLACES))


@pytest.mark.usefixtures("as_for_many_rows")
def test_the_same_with_the_plans_of_many_rows(spark: SparkSession) -> None:
    """With generated code and adaptive execution, which the other tests leave out as runs on little data do."""
    test_listeners_of_hours_and_genres(spark, *CASES[1])
    test_plays_of_hours_and_their_top_names(spark, *CASES[1])
