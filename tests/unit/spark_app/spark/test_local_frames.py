"""Rows that the driver knows get into a frame as they are, and without Python workers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from chispa import assert_df_equality
from pyspark.sql import SparkSession

from spark_app.spark.local_frames import local_frame

SCHEMA = """
    file_id int, size bigint,
    name string, seen_at timestamp
"""


def test_values_are_those_given(spark: SparkSession) -> None:
    odd = "quotes \" ' \\ {}[], line\nend\t, \x00, Ä, 😀, \u2028"
    moment = datetime(2024, 6, 30, 23, 59, 59, 999_999, tzinfo=UTC)
    elsewhere = datetime(1969, 12, 31, 23, 0, 0, 1, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    rows = [(1, 2**63 - 1, odd, moment), (2, -(2**63), "", elsewhere), (None, None, None, None)]
    assert_df_equality(local_frame(spark, rows, SCHEMA), spark.createDataFrame(rows, SCHEMA), ignore_nullable=True)


def test_no_rows(spark: SparkSession) -> None:
    assert_df_equality(local_frame(spark, [], SCHEMA), spark.createDataFrame([], SCHEMA), ignore_nullable=True)


def test_it_is_one_partition_and_needs_no_python(spark: SparkSession) -> None:
    frame = local_frame(spark, [(n, n, str(n), None) for n in range(5000)], SCHEMA)
    assert frame.rdd.getNumPartitions() == 1
    assert "Python" not in str(frame._jdf.queryExecution().executedPlan())
    assert frame.count() == 5000
