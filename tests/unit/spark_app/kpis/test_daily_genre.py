from datetime import date
from decimal import Decimal

from chispa import assert_df_equality
from pyspark.sql import SparkSession

from spark_app.kpis.daily_genre import daily_genre
from tests.unit.spark_app.kpis.inputs import inputs, plays, song

SCHEMA = (
    "listen_date date, track_genre string, listen_count bigint, unique_listeners bigint, "
    "total_listening_time_ms bigint, avg_listening_time_per_user_s decimal(18,3), avg_track_duration_ms decimal(18,3), "
    "popularity_index decimal(18,2), most_popular_track_id string, most_popular_track_name string"
)
DAY = date(2024, 6, 25)


def test_all_figures_of_a_genre_and_day(spark: SparkSession) -> None:
    listens = [
        (1, "t1", "2024-06-25 00:00:00"),
        (1, "t1", "2024-06-25 23:59:59"),
        (2, "t2", "2024-06-25 12:00:00"),
        (1, "t2", "2024-06-25 12:00:00"),
        (3, "t2", "2024-06-26 00:00:00"),
    ]
    songs = [song("t1", "pop", popularity=33, ms=1001), song("t2", "pop", popularity=50, ms=2000)]
    expected = spark.createDataFrame(
        [
            # 2 × 1001 + 2 × 2000 = 6002 ms of two users; (1001 + 2000) / 2 tracks; 2 × 33 + 2 × 50 = 166.
            (DAY, "pop", 4, 2, 6002, Decimal("3.001"), Decimal("1500.500"), Decimal("1.66"), "t2", "name of t2"),
            (
                date(2024, 6, 26),
                "pop",
                1,
                1,
                2000,
                Decimal("2.000"),
                Decimal("2000.000"),
                Decimal("0.50"),
                "t2",
                "name of t2",
            ),
        ],
        SCHEMA,
    )
    found = daily_genre(inputs(spark, listens, songs))
    assert_df_equality(found, expected, ignore_row_order=True, ignore_nullable=True)


def test_a_listen_counts_in_each_genre_of_its_track(spark: SparkSession) -> None:
    songs = [song("t1", "pop", 10, 100), song("t1", "rock", 90, 300), song("t2", "rock", 0, 500)]
    listens = [*plays("t1", 2), *plays("t2", 1)]
    rows = {row["track_genre"]: row for row in daily_genre(inputs(spark, listens, songs)).collect()}
    assert {genre: row["listen_count"] for genre, row in rows.items()} == {"pop": 2, "rock": 3}
    # In each genre with the attributes of that genre's row.
    assert rows["pop"]["total_listening_time_ms"] == 200
    assert rows["rock"]["total_listening_time_ms"] == 1100
    assert rows["pop"]["popularity_index"] == Decimal("0.20")
    assert rows["rock"]["popularity_index"] == Decimal("1.80")
    # The user who heard both tracks of rock is one listener.
    assert rows["rock"]["unique_listeners"] == 2


def test_averages_are_rounded_half_up(spark: SparkSession) -> None:
    songs = [song("t1", ms=1), song("t2", ms=4), song("t3", ms=4)]
    listens = [(user, "t1", "2024-06-25 10:00:00") for user in (1, 2)] + plays("t2", 1) + plays("t3", 1)
    row = daily_genre(inputs(spark, listens, songs)).first()
    assert row is not None
    # 10 ms / 3 users; 9 ms / 3 tracks
    assert row["avg_listening_time_per_user_s"] == Decimal("0.003")
    assert row["avg_track_duration_ms"] == Decimal("3.000")
    half = daily_genre(inputs(spark, [(1, "t1", "2024-06-25 10:00:00"), (2, "t1", "2024-06-25 10:00:00")], songs))
    # 2 ms / 2 users = 0.001 s; and of 1 ms for two users, exactly half a thousandth:
    assert [row["avg_listening_time_per_user_s"] for row in half.collect()] == [Decimal("0.001")]


def test_the_most_popular_track_is_the_most_played_one(spark: SparkSession) -> None:
    songs = [song("a", popularity=100), song("b", popularity=1), song("c", popularity=1)]
    row = daily_genre(inputs(spark, [*plays("a", 1), *plays("c", 2), *plays("b", 2)], songs)).first()
    assert row is not None
    assert (row["most_popular_track_id"], row["most_popular_track_name"]) == ("b", "name of b")


def test_the_day_is_that_of_the_kpi_zone(spark: SparkSession) -> None:
    listens = [(1, "t1", "2024-06-25 21:59:59"), (1, "t1", "2024-06-25 22:00:00")]
    rows = daily_genre(inputs(spark, listens, [song("t1")], "Europe/Berlin")).collect()
    assert {row["listen_date"] for row in rows} == {DAY, date(2024, 6, 26)}
