from datetime import date
from decimal import Decimal

from chispa import assert_df_equality
from pyspark.sql import SparkSession

from spark_app.kpis.hourly import hourly
from tests.unit.spark_app.builders import instant
from tests.unit.spark_app.kpis.inputs import inputs, song

SCHEMA = (
    "listen_date date, listen_hour timestamp, listen_count bigint, unique_listeners bigint, unique_tracks bigint, "
    "track_diversity_index decimal(18,6)"
)


def test_a_listen_counts_once_however_many_genres_its_track_has(spark: SparkSession) -> None:
    listens = [
        (1, "t1", "2024-06-25 10:00:00"),
        (1, "t1", "2024-06-25 10:10:00"),
        (2, "t2", "2024-06-25 10:59:59.999999"),
        (2, "t2", "2024-06-25 11:00:00"),
    ]
    songs = [song("t1", "pop"), song("t1", "rock"), song("t2", "pop")]
    day = date(2024, 6, 25)
    rows = [
        (day, instant("2024-06-25 10:00:00"), 3, 2, 2, Decimal("0.666667")),
        (day, instant("2024-06-25 11:00:00"), 1, 1, 1, Decimal("1.000000")),
    ]
    found = hourly(inputs(spark, listens, songs))
    assert_df_equality(found, spark.createDataFrame(rows, SCHEMA), ignore_row_order=True, ignore_nullable=True)


def test_a_doubled_hour_is_two_hours_of_one_day(spark: SparkSession) -> None:
    listens = [(1, "t1", "2024-10-27 00:30:00"), (1, "t1", "2024-10-27 01:30:00")]
    rows = hourly(inputs(spark, listens, [song("t1")], "Europe/Berlin")).orderBy("listen_hour").collect()
    assert [row["listen_hour"] for row in rows] == [instant("2024-10-27 00:00:00"), instant("2024-10-27 01:00:00")]
    assert {row["listen_date"] for row in rows} == {date(2024, 10, 27)}


def test_the_date_is_that_of_the_hour_in_the_kpi_zone(spark: SparkSession) -> None:
    row = hourly(inputs(spark, [(1, "t1", "2024-06-25 18:45:00")], [song("t1")], "Asia/Kolkata")).first()
    assert row is not None
    assert (row["listen_date"], row["listen_hour"]) == (date(2024, 6, 26), instant("2024-06-25 18:30:00"))
