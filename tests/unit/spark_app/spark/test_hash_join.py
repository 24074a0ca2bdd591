import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_app.spark.hash_join import hashes_differ, join_by_hash

KEYS = "track_id string, track_no int, mask bigint"


def joined(spark: SparkSession, keys: DataFrame) -> set[tuple[object, ...]]:
    rows = spark.createDataFrame([("t1", 1), ("t22", 2), ("new", 3), (None, 4)], "track_id string, row int")
    found = join_by_hash(rows, keys, "track_id", "track_no").select("track_id", "row", "track_no")
    return set(map(tuple, found.collect()))


def test_rows_find_their_key_and_others_stay_without(spark: SparkSession) -> None:
    keys = spark.createDataFrame([("t1", 10, 1), ("t22", 20, 2)], KEYS)
    assert hashes_differ(keys, "track_id")
    assert joined(spark, keys) == {("t1", 1, 10), ("t22", 2, 20), ("new", 3, None), (None, 4, None)}


def test_an_id_with_the_number_of_another_is_not_taken_for_it(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the length of the id as its number: that of `new` and of `t22` is the same."""
    monkeypatch.setattr(F, "xxhash64", F.length)
    keys = spark.createDataFrame([("t1", 10, 1), ("t22", 20, 2)], KEYS)
    assert joined(spark, keys) == {("t1", 1, 10), ("t22", 2, 20), ("new", 3, None), (None, 4, None)}
    assert not hashes_differ(keys.union(spark.createDataFrame([("t2", 30, 3)], KEYS)), "track_id")
