import random

import pytest
from chispa import assert_column_equality, assert_df_equality
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from spark_app.kpis.hours import hour_start
from spark_app.kpis.inputs import Staged, only_named
from spark_app.kpis.song_catalogue import current_songs, current_users
from spark_app.spark.kept_frames import KeptFrames
from tests.unit.spark_app.builders import STAGED_SONGS, instant
from tests.unit.spark_app.kpis.inputs import STAGED_USERS, inputs, song, staged

# zone → (instant, start of its hour of the zone), all in UTC
HOURS = {
    "UTC": [("2024-06-25 10:59:59.999999", "2024-06-25 10:00:00"), ("2024-06-25 11:00:00", "2024-06-25 11:00:00")],
    "Europe/Berlin": [
        ("2024-06-25 10:15:00", "2024-06-25 10:00:00"),
        # The hour from 02:00 to 03:00 comes twice: two hours.
        ("2024-10-27 00:59:59", "2024-10-27 00:00:00"),
        ("2024-10-27 01:00:00", "2024-10-27 01:00:00"),
        ("2024-10-27 01:59:59", "2024-10-27 01:00:00"),
        ("2024-10-27 02:00:00", "2024-10-27 02:00:00"),
        # The hour from 02:00 to 03:00 is missing.
        ("2024-03-31 00:59:59", "2024-03-31 00:00:00"),
        ("2024-03-31 01:00:00", "2024-03-31 01:00:00"),
    ],
    "Asia/Kolkata": [
        ("2024-06-25 10:29:59", "2024-06-25 09:30:00"),
        ("2024-06-25 10:30:00", "2024-06-25 10:30:00"),
    ],
    "Australia/Lord_Howe": [
        # 02:00 becomes 01:30 at 15:00 UTC: the second half of the hour from 01:00 comes twice.
        ("2024-04-06 14:59:59", "2024-04-06 14:00:00"),
        ("2024-04-06 15:00:00", "2024-04-06 15:00:00"),
        ("2024-04-06 15:29:59", "2024-04-06 15:00:00"),
        ("2024-04-06 15:30:00", "2024-04-06 15:30:00"),
        # 02:00 becomes 02:30 at 15:30 UTC: that hour has thirty minutes.
        ("2024-10-05 15:29:59", "2024-10-05 14:30:00"),
        ("2024-10-05 15:30:00", "2024-10-05 15:30:00"),
        ("2024-10-05 15:59:59", "2024-10-05 15:30:00"),
        ("2024-10-05 16:00:00", "2024-10-05 16:00:00"),
    ],
}


@pytest.mark.parametrize("zone", HOURS)
def test_an_hour_begins_when_it_begins_on_the_clocks_of_the_zone(spark: SparkSession, zone: str) -> None:
    rows = [(instant(moment), instant(start)) for moment, start in HOURS[zone]]
    frame = spark.createDataFrame(rows, "moment timestamp, expected timestamp").coalesce(1)
    assert_column_equality(frame.withColumn("found", hour_start(F.col("moment"), zone)), "found", "expected")


def test_a_listen_counts_once_however_many_files_hold_it(spark: SparkSession) -> None:
    time = "2024-06-25 10:00:00"
    found = inputs(spark, [(7, "t1", time), (7, "t1", time), (7, "t1", "2024-06-25 10:00:00.000001")], [song("t1")])
    assert found.listens.count() == 2
    assert [row["play_count"] for row in found.plays.collect()] == [2]


def test_waiting_listens_are_in_no_frame(spark: SparkSession) -> None:
    time = "2024-06-25 10:00:00"
    found = inputs(spark, [(1, "known", time), (1, "waiting", time)], [song("known")])
    assert found.listens.count() == 1
    assert [row["play_count"] for row in found.genre_plays.collect()] == [1]


def test_plays_are_counted_by_hour_and_by_day_and_genre(spark: SparkSession) -> None:
    listens = [
        (1, "t1", "2024-06-25 10:00:00"),
        (2, "t1", "2024-06-25 10:59:59"),
        (1, "t1", "2024-06-25 11:00:00"),
        (1, "t1", "2024-06-26 00:00:00"),
    ]
    found = inputs(spark, listens, [song("t1", "pop"), song("t1", "rock")])
    by_hour = {
        (str(row["listen_date"]), hour, plays, row["play_count"])
        for row in found.plays.collect()
        for hour, plays in enumerate(row["plays_by_hour"])
        if plays
    }
    assert by_hour == {("2024-06-25", 10, 2, 3), ("2024-06-25", 11, 1, 3), ("2024-06-26", 0, 1, 1)}
    days = {(str(row["listen_date"]), row["track_genre"], row["play_count"]) for row in found.genre_plays.collect()}
    assert days == {
        ("2024-06-25", "pop", 3),
        ("2024-06-25", "rock", 3),
        ("2024-06-26", "pop", 1),
        ("2024-06-26", "rock", 1),
    }


def test_songs_and_users_that_listens_name_are_the_same_as_among_all(spark: SparkSession) -> None:
    """Random files of songs and users, of several times."""
    dice = random.Random(3)
    times = [instant(f"2024-06-0{day} 00:00:00") for day in (1, 2, 3)]
    songs = [
        (dice.choice(times), f"{dice.randrange(3)}.csv", f"t{n}", n, genre, f"name {n}", "A", "B", dice.randrange(9), 1)
        for n in range(40)
        for genre in dice.sample(["pop", "rock", "jazz"], 2)
    ]
    users = [
        (dice.choice(times), dice.randrange(20), 30, dice.choice(["Peru", "Chile", None]), None) for _ in range(60)
    ]
    listens = staged(
        spark, [(1, dice.randrange(30), f"t{dice.randrange(50)}", "2024-06-25 10:00:00") for _ in range(25)]
    )
    given = Staged(
        listens.coalesce(1),
        spark.createDataFrame(songs, STAGED_SONGS).coalesce(1),
        spark.createDataFrame(users, STAGED_USERS).coalesce(1),
        {"2024-06-25": 25},
    )
    with KeptFrames("none") as kept:
        named, rows = only_named(given, kept)
        assert rows == named.songs.count() + named.users.count() < 140
        for key, found, expected in (
            ("track_id", current_songs(named.songs), current_songs(given.songs)),
            ("user_id", current_users(named.users), current_users(given.users)),
        ):
            plain = expected.join(listens, on=key, how="left_semi").select(*expected.columns)
            assert_df_equality(found, plain, ignore_row_order=True)
