from dataclasses import replace

import pytest
from pyspark.sql import DataFrame, SparkSession

from spark_app.kpis import all_kpis
from spark_app.kpis.definition import Kpi
from spark_app.publish.audit import failed, judge, judge_emptied, sum_expectations, table_expectations

PLAIN = Kpi("plain", ("listen_date", "genre"), lambda given: given.plays)
RANKED = replace(PLAIN, name="ranked", key=("listen_date", "genre", "rank"), rank="rank")
HOUR = Kpi("hour", ("listen_hour",), lambda given: given.plays)

Rows = list[tuple[object, ...]]


def broken(kpi: Kpi, frame: DataFrame) -> list[str]:
    return [result.check.partition(": ")[2] for result in failed(judge([table_expectations(kpi, frame)]))]


@pytest.mark.parametrize(
    ("rows", "checks"),
    [
        ([("d", "pop", 1), ("d", "rock", 1), ("e", "pop", 1)], []),
        ([], []),
        ([("d", "pop", 1), ("d", "pop", 2)], ["key is unique"]),
        ([("d", None, 1)], ["no value is missing"]),
        ([("d", "pop", None)], ["no value is missing"]),
    ],
)
def test_keys_are_unique_and_nothing_is_missing(spark: SparkSession, rows: Rows, checks: list[str]) -> None:
    assert broken(PLAIN, spark.createDataFrame(rows, "listen_date string, genre string, plays int")) == checks


@pytest.mark.parametrize("ranks", [[1], [1, 2, 3], [3, 1, 2]])
def test_ranks_that_run_from_one(spark: SparkSession, ranks: list[int]) -> None:
    rows = [("d", "pop", rank) for rank in ranks]
    assert broken(RANKED, spark.createDataFrame(rows, "listen_date string, genre string, rank int")) == []


@pytest.mark.parametrize("ranks", [[2], [1, 3], [1, 1], [1, 2, 2], [0, 1]])
def test_ranks_that_do_not(spark: SparkSession, ranks: list[int]) -> None:
    rows = [("d", "jazz", 1), *(("d", "pop", rank) for rank in ranks)]
    frame = spark.createDataFrame(rows, "listen_date string, genre string, rank int")
    (result,) = failed(judge([table_expectations(RANKED, frame)]))
    assert result.check == "ranked: key is unique and ranks are complete"
    assert '"genre":"pop"' in result.detail
    assert "jazz" not in result.detail


@pytest.mark.parametrize(("listeners", "tracks", "wrong"), [(3, 3, 0), (4, 1, 1), (1, 4, 1), (0, 0, 2)])
def test_no_more_listeners_or_tracks_than_listens(spark: SparkSession, listeners: int, tracks: int, wrong: int) -> None:
    schema = "listen_hour int, listen_count int, unique_listeners int, unique_tracks int"
    assert len(broken(HOUR, spark.createDataFrame([(1, 3, listeners, tracks)], schema))) == wrong


@pytest.mark.parametrize(
    ("hours", "genres", "passed"),
    [
        ([("d", 2), ("d", 1)], [("d", 4)], True),
        ([("d", 2)], [("d", 4)], False),
        ([("d", 3)], [("d", 5)], False),
        ([], [("d", 4)], False),
        ([("d", 3), ("e", 1)], [("d", 4)], False),
    ],
)
def test_sums_agree_with_what_is_staged(spark: SparkSession, hours: Rows, genres: Rows, passed: bool) -> None:
    schema = "listen_date string, listen_count bigint"
    staged = spark.createDataFrame([("d", 3, 4)], "listen_date string, listens bigint, genre_listens bigint")
    sums = sum_expectations(spark.createDataFrame(hours, schema), spark.createDataFrame(genres, schema), staged)
    found = judge([sums])
    assert [result.passed for result in found] == [passed]


def test_a_date_is_emptied_only_by_a_correction_or_a_withdrawal() -> None:
    assert judge_emptied({"2024-06-25"}, {"2024-06-25", "2024-06-26"}).passed
    result = judge_emptied({"2024-06-24", "2024-06-25"}, {"2024-06-25"})
    assert (result.passed, result.detail) == (False, "2024-06-24")


def test_every_kpi_that_counts_listens_is_checked_for_them() -> None:
    ranked = {"top_songs", "top_genres", "hourly_top_albums", "hourly_top_artists"}
    assert {kpi.name for kpi in all_kpis() if kpi.rank} == ranked
