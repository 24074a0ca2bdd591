from decimal import Decimal

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from spark_app.config.dynamodb_layout import DATE_COLUMN
from spark_app.kpis import all_kpis
from spark_app.kpis.definition import Kpi, exact_ratio
from tests.unit.spark_app.kpis.inputs import inputs, plays, song


def test_every_kpi_module_is_found_by_itself() -> None:
    assert [kpi.name for kpi in all_kpis()] == [
        "daily_country",
        "daily_genre",
        "hourly",
        "hourly_top_albums",
        "hourly_top_artists",
        "top_genres",
        "top_songs",
    ]


def test_the_keys_are_those_of_the_design() -> None:
    assert {kpi.name: kpi.key for kpi in all_kpis()} == {
        "daily_genre": ("listen_date", "track_genre"),
        "top_songs": ("listen_date", "track_genre", "rank"),
        "top_genres": ("listen_date", "rank"),
        "daily_country": ("listen_date", "country"),
        "hourly": ("listen_hour",),
        "hourly_top_albums": ("listen_hour", "rank"),
        "hourly_top_artists": ("listen_hour", "rank"),
    }


def test_a_group_is_the_key_without_the_rank() -> None:
    ranked = Kpi("k", ("day", "genre", "rank"), lambda given: given.plays, rank="rank")
    assert ranked.group == ("day", "genre")
    assert Kpi("k", ("day", "genre"), lambda given: given.plays).group == ("day", "genre")


@pytest.mark.parametrize("kpi", all_kpis(), ids=lambda kpi: kpi.name)
def test_every_kpi_has_its_key_and_the_date(spark: SparkSession, kpi: Kpi) -> None:
    columns = kpi.compute(inputs(spark, plays("t1", 1), [song("t1")])).columns
    assert {DATE_COLUMN, *kpi.key} <= set(columns)


RATIOS = [
    (0, 7, 3, "0.000"),
    (1, 2, 3, "0.500"),
    (1, 3, 3, "0.333"),
    (2, 3, 3, "0.667"),
    (1, 2000, 3, "0.001"),  # exactly half of a thousandth
    (3, 2000, 3, "0.002"),
    (5, 2000, 3, "0.003"),
    (999_999, 2_000_000, 3, "0.500"),
    (999, 2_000_000, 3, "0.000"),
    (1_001, 2_000_000, 3, "0.001"),
    (2_675, 1_000, 3, "2.675"),
    (10_005, 10_000, 3, "1.001"),  # 1.0005 as a double is below the half
    (1, 2_000_000, 6, "0.000001"),
    (3, 2_000_000, 6, "0.000002"),
    (2, 3, 6, "0.666667"),
    (7, 7, 6, "1.000000"),
    (9_007_199_254_740_993, 1_000, 3, "9007199254740.993"),  # no double holds it
    (9_007_199_254_740_993, 16, 3, "562949953421312.063"),
    (9_223_372_036_854_775, 9_223_372_036_854_775_807, 6, "0.001000"),
]


def test_ratios_are_rounded_half_up_once_and_exactly(spark: SparkSession) -> None:
    for scale in (3, 6):
        rows = [(n, d, Decimal(expected)) for n, d, s, expected in RATIOS if s == scale]
        frame = spark.createDataFrame(rows, f"n bigint, d bigint, expected decimal(18,{scale})").coalesce(1)
        found = frame.select("n", "d", "expected", exact_ratio(F.col("n"), F.col("d"), scale).alias("found"))
        assert found.schema["found"].dataType == found.schema["expected"].dataType
        assert [tuple(row) for row in found.where("not (found <=> expected)").collect()] == []
