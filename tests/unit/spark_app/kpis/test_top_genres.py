from datetime import date

from chispa import assert_df_equality
from pyspark.sql import SparkSession

from spark_app.kpis.top_genres import top_genres
from tests.unit.spark_app.kpis.inputs import inputs, plays, song


def test_the_five_genres_with_most_listens_of_each_day(spark: SparkSession) -> None:
    genres = ["f", "e", "d", "c", "b", "a"]
    songs = [song(f"t-{genre}", genre) for genre in genres]
    listens = [listen for count, genre in enumerate(genres, 1) for listen in plays(f"t-{genre}", count)]
    listens += plays("t-f", 1, "2024-06-26")
    rows = [(date(2024, 6, 25), rank, genre, 7 - rank) for rank, genre in enumerate("abcde", 1)]
    rows.append((date(2024, 6, 26), 1, "f", 1))
    expected = spark.createDataFrame(rows, "listen_date date, rank int, track_genre string, listen_count bigint")
    found = top_genres(inputs(spark, listens, songs))
    assert_df_equality(found, expected, ignore_row_order=True, ignore_nullable=True)


def test_genres_with_as_many_listens_are_ordered_by_the_bytes_of_their_names(spark: SparkSession) -> None:
    names = ["Z", "a", "é", "\uff5e", "\U0001f600"]
    songs = [song("t1", genre) for genre in reversed(names)]
    found = top_genres(inputs(spark, plays("t1", 1), songs)).orderBy("rank").collect()
    assert [row["track_genre"] for row in found] == names


def test_a_listen_counts_in_each_genre_of_its_track(spark: SparkSession) -> None:
    songs = [song("t1", "pop"), song("t1", "rock"), song("t2", "rock")]
    found = top_genres(inputs(spark, [*plays("t1", 1), *plays("t2", 1)], songs)).orderBy("rank").collect()
    assert [(row["track_genre"], row["listen_count"]) for row in found] == [("rock", 2), ("pop", 1)]
