from collections import Counter
from datetime import date
from pathlib import Path

import pytest
from chispa import assert_df_equality
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from kpi_common.contracts import Dataset
from spark_app.ingest.staged_rows import quarantine_records, staged_songs, staged_streams, staged_users
from spark_app.lake.delta_tables import Table
from tests.unit.spark_app.builders import FILE_TIME, checked, instant

LISTENS = "file_id int, user_id bigint, track_id string, listen_time timestamp"
STAGED = f"{LISTENS}, copies int, listen_date date"


def listens(spark: SparkSession, *rows: tuple[int, int, str, str]) -> DataFrame:
    return spark.createDataFrame([(f, u, track, instant(time)) for f, u, track, time in rows], LISTENS)


def names(spark: SparkSession) -> DataFrame:
    return spark.createDataFrame([(1, "songs/a.csv"), (2, "songs/b.csv")], "file_id int, file_name string")


@pytest.mark.parametrize("buckets", [1, 3])
def test_a_repeated_listen_is_kept_once_in_each_file_with_its_copies(spark: SparkSession, buckets: int) -> None:
    same = "2024-06-25 10:00:00"
    frame = listens(spark, (1, 7, "t", same), (1, 7, "t", same), (2, 7, "t", same), (1, 7, "t", "2024-06-25 10:00:01"))
    day = date(2024, 6, 25)
    expected = [
        (1, 7, "t", instant(same), 2, day),
        (2, 7, "t", instant(same), 1, day),
        (1, 7, "t", instant("2024-06-25 10:00:01"), 1, day),
    ]
    found = staged_streams(frame, "UTC", buckets, 2)
    assert_df_equality(found, spark.createDataFrame(expected, STAGED), ignore_row_order=True, ignore_nullable=True)


@pytest.mark.parametrize("buckets", [1, 2])
def test_a_days_listens_are_in_so_many_parts_at_most_each_of_which_becomes_a_file(
    spark: SparkSession, buckets: int
) -> None:
    rows = [(1, user, f"t{user}", f"2024-06-{day} 10:00:00") for user in range(40) for day in (24, 25, 26)]
    found = staged_streams(listens(spark, *rows), "UTC", buckets, 8)
    parts = found.select("listen_date", F.spark_partition_id().alias("part")).distinct().collect()
    of_a_day = Counter(row["listen_date"] for row in parts)
    assert len(of_a_day) == 3
    assert max(of_a_day.values()) <= buckets


@pytest.mark.parametrize(
    ("time", "zone", "day"),
    [
        ("2024-06-25 18:30:00", "UTC", date(2024, 6, 25)),
        ("2024-06-25 18:30:00", "Asia/Kolkata", date(2024, 6, 26)),
        ("2024-06-25 18:30:00", "America/Lima", date(2024, 6, 25)),
        ("1969-12-31 23:59:59.5", "UTC", date(1969, 12, 31)),
        ("1970-01-01 00:00:00", "UTC", date(1970, 1, 1)),
    ],
)
@pytest.mark.parametrize("buckets", [1, 3])
def test_the_date_is_that_of_the_kpi_time_zone(
    spark: SparkSession, time: str, zone: str, day: date, buckets: int
) -> None:
    frame = listens(spark, (1, 7, "t", time))
    assert [row["listen_date"] for row in staged_streams(frame, zone, buckets, 1).collect()] == [day]


def test_of_repeated_songs_the_most_popular_counts_then_the_smallest_id_as_a_number(spark: SparkSession) -> None:
    rows = [
        "10,t1,A,ten,50,1000,pop",
        "9,t1,A,nine,50,1000,pop",
        "1,t1,A,one,49,1000,pop",
        "5,t1,A,other genre,1,1000,rock",
        "6,t2,A,no popularity,,1000,pop",
    ]
    kept = checked(spark, Dataset.SONGS, *rows).kept
    found = staged_songs(kept, names(spark)).select("track_id", "track_genre", "track_name", "popularity", "copies")
    expected = spark.createDataFrame(
        [("t1", "pop", "nine", 50, 3), ("t1", "rock", "other genre", 1, 1), ("t2", "pop", "no popularity", 0, 1)],
        "track_id string, track_genre string, track_name string, popularity bigint, copies int",
    )
    assert_df_equality(found, expected, ignore_row_order=True, ignore_nullable=True)


def test_of_repeated_users_the_one_created_last_counts(spark: SparkSession) -> None:
    rows = ["1,Ann,20,DE,2024-01-01", "1,Ann,21,FR,2024-02-01", "1,Ann,22,NL,", "2,Zoe,30,SE,", "2,Ann,,FI,"]
    found = staged_users(checked(spark, Dataset.USERS, *rows).kept).drop("file_id", "file_modified_at")
    expected = spark.createDataFrame(
        [(1, "FR", "18-24", 3), (2, "FI", "unknown", 2)],
        "user_id bigint, user_country string, age_band string, copies int",
    )
    assert_df_equality(found, expected, ignore_row_order=True, ignore_nullable=True)


def test_a_lake_of_the_release_before_goes_on_with_users_of_this_one(spark: SparkSession, tmp_path: Path) -> None:
    table = Table(str(tmp_path / "users"))
    before = "file_id int, file_modified_at timestamp, user_id bigint, user_name string, user_age bigint, copies int"
    table.replace(spark.createDataFrame([(1, FILE_TIME, 5, "Ann", 30, 1)], before), None, {})
    rows = checked(spark, Dataset.USERS, "7,Bob,64,NL,").kept.withColumn("file_id", F.lit(2))
    table.replace(staged_users(rows), "file_id IN (2)", {})
    found = table.read(spark).select("user_id", "user_name", "user_age", "user_country", "age_band").collect()
    assert sorted(map(tuple, found)) == [(5, "Ann", 30, None, None), (7, None, None, "NL", "55-64")]


def test_a_quarantined_row_says_all_that_is_known_of_it(spark: SparkSession) -> None:
    rows = checked(spark, Dataset.STREAMS, "1,t1,2024-06-25 10:00:00", " x,,2024-06-25 10:00:00 ")
    found = quarantine_records(rows, names(spark), Dataset.STREAMS, "run 1", F.lit(instant("2024-06-26")))
    expected = [
        (
            1,
            "streams",
            "songs/a.csv",
            3,
            " x,,2024-06-25 10:00:00 ",
            ["invalid_user_id", "missing_track_id"],
            "run 1",
            instant("2024-06-26"),
        )
    ]
    assert [tuple(row) for row in found.collect()] == expected
