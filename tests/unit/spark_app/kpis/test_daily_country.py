from datetime import date

from chispa import assert_df_equality
from pyspark.sql import SparkSession

from spark_app.kpis.daily_country import daily_country
from tests.unit.spark_app.kpis.inputs import inputs, song

DAY, NEXT = date(2024, 6, 25), date(2024, 6, 26)


def test_listens_listeners_and_time_of_each_country_and_day(spark: SparkSession) -> None:
    listens = [
        (1, "t1", "2024-06-25 10:00:00"),
        (1, "t2", "2024-06-25 23:00:00"),
        (2, "t1", "2024-06-25 10:00:00"),
        (3, "t1", "2024-06-25 10:00:00"),  # without a country
        (4, "t2", "2024-06-25 10:00:00"),  # in no file of users
        (1, "t2", "2024-06-26 10:00:00"),
    ]
    # Of a track's two durations, that of its most popular row.
    songs = [song("t1", "pop", 1, ms=7), song("t1", "rock", 2, ms=100), song("t2", ms=1000)]
    users = [(1, "Peru"), (2, "Peru"), (3, None), (5, "Chile")]
    rows = [(DAY, "Peru", 3, 2, 1200), (DAY, "unknown", 2, 2, 1100), (NEXT, "Peru", 1, 1, 1000)]
    schema = (
        "listen_date date, country string, listen_count bigint, unique_listeners bigint, total_listening_time_ms bigint"
    )
    found = daily_country(inputs(spark, listens, songs, users=users))
    assert_df_equality(found, spark.createDataFrame(rows, schema), ignore_row_order=True, ignore_nullable=True)
