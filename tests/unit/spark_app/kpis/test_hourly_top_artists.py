from datetime import date

from chispa import assert_df_equality
from pyspark.sql import SparkSession

from spark_app.kpis.hourly_top_artists import hourly_top_artists
from tests.unit.spark_app.builders import instant
from tests.unit.spark_app.kpis.inputs import Listen, Song, inputs, plays, song


def ranking(spark: SparkSession, listens: list[Listen], songs: list[Song]) -> list[tuple[str, int]]:
    rows = hourly_top_artists(inputs(spark, listens, songs)).orderBy("listen_hour", "rank").collect()
    return [(row["artist"], row["play_count"]) for row in rows]


def test_each_artist_of_a_track_gets_the_play(spark: SparkSession) -> None:
    songs = [song("t1", artists="A;B"), song("t2", artists="B")]
    found = hourly_top_artists(inputs(spark, [*plays("t1", 2), *plays("t2", 1)], songs))
    hour = instant("2024-06-25 10:00:00")
    expected = spark.createDataFrame(
        [(date(2024, 6, 25), hour, 1, "B", 3), (date(2024, 6, 25), hour, 2, "A", 2)],
        "listen_date date, listen_hour timestamp, rank int, artist string, play_count bigint",
    )
    assert_df_equality(found, expected, ignore_row_order=True, ignore_nullable=True)


def test_an_artist_that_a_track_names_twice_gets_the_play_once(spark: SparkSession) -> None:
    assert ranking(spark, plays("t1", 1), [song("t1", artists="A; A ;B;;")]) == [("A", 1), ("B", 1)]


def test_digits_of_a_name_are_no_white_space(spark: SparkSession) -> None:
    names = ["0", "111", "2Pac", "33", "U4"]
    assert ranking(spark, plays("t1", 1), [song("t1", artists="; ".join(names))]) == [(name, 1) for name in names]


def test_a_play_counts_once_however_many_genres_its_track_has(spark: SparkSession) -> None:
    assert ranking(spark, plays("t1", 2), [song("t1", "pop"), song("t1", "rock")]) == [("A", 2)]


def test_the_artists_are_those_of_the_tracks_most_popular_row(spark: SparkSession) -> None:
    songs = [song("t1", "pop", 1, artists="A"), song("t1", "rock", 2, artists="B"), song("t1", "soul", 2, artists="C")]
    assert ranking(spark, plays("t1", 1), songs) == [("B", 1)]


def test_an_hour_has_five_artists_at_most_by_plays_then_by_the_bytes_of_their_names(spark: SparkSession) -> None:
    songs = [song("t1", artists="\U0001f600;é;a;Z;\uff5e"), song("t2", artists="z")]
    assert ranking(spark, [*plays("t1", 1), *plays("t2", 2)], songs) == [
        ("z", 2),
        ("Z", 1),
        ("a", 1),
        ("é", 1),
        ("\uff5e", 1),
    ]


def test_each_hour_has_ranks_of_its_own(spark: SparkSession) -> None:
    listens = [(1, "t1", "2024-06-25 10:00:00"), (1, "t2", "2024-06-25 11:00:00")]
    rows = hourly_top_artists(inputs(spark, listens, [song("t1"), song("t2", artists="B")])).collect()
    assert sorted((row["artist"], row["rank"]) for row in rows) == [("A", 1), ("B", 1)]
