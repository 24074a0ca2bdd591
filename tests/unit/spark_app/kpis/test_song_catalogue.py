import random
from datetime import datetime

import pytest
from chispa import assert_df_equality
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_app.kpis.song_catalogue import (
    changed_tracks,
    changed_users,
    current_songs,
    current_tracks,
    current_users,
    only_of_files,
)
from spark_app.spark.columns import age_band
from tests.unit.spark_app.builders import SONGS, STAGED_SONGS

OLD, NEW = datetime(2024, 6, 1), datetime(2024, 6, 2)


def row(track: str, genre: str = "pop", name: str = "n", popularity: int = 1, album: str = "x") -> tuple[object, ...]:
    return track, 1, genre, name, "A", album, popularity, 1000


def songs(spark: SparkSession, *rows: tuple[object, ...]) -> DataFrame:
    return spark.createDataFrame(list(rows), SONGS).coalesce(1)


def staged(spark: SparkSession, *files: tuple[datetime, str, list[tuple[object, ...]]]) -> DataFrame:
    rows = [(modified, name, *song) for modified, name, content in files for song in content]
    return spark.createDataFrame(rows, STAGED_SONGS).coalesce(1)


def test_a_newer_file_replaces_all_rows_of_the_tracks_that_it_names(spark: SparkSession) -> None:
    old = (OLD, "songs/z.csv", [row("t1", "pop"), row("t1", "rock"), row("t2", "pop")])
    new = (NEW, "songs/a.csv", [row("t1", "jazz")])
    expected = songs(spark, row("t1", "jazz"), row("t2", "pop"))
    assert_df_equality(current_songs(staged(spark, old, new)), expected, ignore_row_order=True)


def test_of_two_files_of_one_time_the_later_name_counts(spark: SparkSession) -> None:
    files = [(OLD, "songs/a.csv", [row("t1", name="a")]), (OLD, "songs/b.csv", [row("t1", name="b")])]
    for order in (files, files[::-1]):
        assert_df_equality(current_songs(staged(spark, *order)), songs(spark, row("t1", name="b")))


def test_a_track_has_the_attributes_of_its_most_popular_row_then_of_the_first_genre(spark: SparkSession) -> None:
    frame = songs(
        spark,
        row("t1", "pop", "less", 10),
        row("t1", "rock", "more", 20),
        row("t2", "rock", "second", 5),
        row("t2", "jazz", "first", 5),
    )
    found = current_tracks(frame).select("track_id", "track_name")
    expected = spark.createDataFrame([("t1", "more"), ("t2", "first")], "track_id string, track_name string")
    assert_df_equality(found, expected, ignore_row_order=True)


def test_a_track_changed_if_an_attribute_came_went_or_changed(spark: SparkSession) -> None:
    before = songs(
        spark,
        row("same"),
        row("gone"),
        row("renamed"),
        row("moved"),
        row("lost a genre", "pop"),
        row("lost a genre", "x"),
    )
    after = songs(
        spark,
        row("same"),
        row("new"),
        row("renamed", name="other"),
        row("moved", album="y"),
        row("lost a genre", "pop"),
    )
    found = changed_tracks(before, after)
    expected = [("gone",), ("lost a genre",), ("moved",), ("new",), ("renamed",)]
    assert_df_equality(found, spark.createDataFrame(expected, "track_id string"), ignore_row_order=True)


def test_another_id_alone_changes_nothing_that_kpis_use(spark: SparkSession) -> None:
    before, after = songs(spark, row("t")), songs(spark, ("t", 99, *row("t")[2:]))
    assert changed_tracks(before, after).count() == 0


STAGED_USERS = "file_modified_at timestamp, user_id bigint, user_age bigint, user_country string"
USERS = "user_id bigint, country string, age_band string"


def test_a_user_is_as_in_the_newest_file_that_names_them(spark: SparkSession) -> None:
    rows = [
        (OLD, 1, 30, "Peru"),
        (NEW, 1, 30, "Chile"),
        (OLD, 2, 30, "Peru"),
        (OLD, 2, 30, "Chile"),
        (NEW, 3, None, None),
    ]
    expected = [(1, "Chile", "25-34"), (2, "Chile", "25-34"), (3, None, "unknown")]
    before = spark.createDataFrame(rows, STAGED_USERS).coalesce(1)  # as the release before staged them
    after = before.withColumn("age_band", age_band(F.col("user_age"))).drop("user_age")
    for staged_users in (before, after):
        found = current_users(staged_users)
        assert_df_equality(found, spark.createDataFrame(expected, USERS), ignore_row_order=True, ignore_nullable=True)


def test_a_user_changed_if_their_country_or_age_band_did(spark: SparkSession) -> None:
    before = spark.createDataFrame([(1, "Peru", "18-24"), (2, "Peru", "18-24"), (3, None, None)], USERS)
    after = spark.createDataFrame([(1, "Peru", "18-24"), (2, "Chile", "18-24"), (4, "Peru", None)], USERS)
    assert sorted(row[0] for row in changed_users(before, after).collect()) == [2, 3, 4]


def test_changes_are_the_same_among_the_tracks_that_changed_files_name(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random files: one is corrected, one withdrawn, one new, the others stay."""
    dice = random.Random(5)

    def file(file_id: int, tracks: int = 12) -> list[tuple[object, ...]]:
        at = dice.choice([OLD, NEW])
        names = [(track, genre) for track in "abcdefghijkl"[:tracks] for genre in ("pop", "rock")]
        chosen = dice.sample(names, 4)
        return [(at, f"{file_id}.csv", *row(*name, popularity=dice.randrange(3)), file_id) for name in chosen]

    same = [song for file_id in (1, 2) for song in file(file_id)]
    schema = f"{STAGED_SONGS}, file_id int"
    before = spark.createDataFrame([*same, *file(3, 6), *file(4, 6)], schema).coalesce(1)
    after = spark.createDataFrame([*same, *file(3, 6), *file(5, 6)], schema).coalesce(1)
    plain = changed_tracks(current_songs(before), current_songs(after))
    cut = only_of_files(before, after, [3, 4, 5], "track_id")
    assert 0 < cut[0].count() < before.count()
    assert_df_equality(changed_tracks(*map(current_songs, cut)), plain, ignore_row_order=True)
    monkeypatch.setattr("spark_app.kpis.song_catalogue.MAX_KEYS", 1)
    assert only_of_files(before, after, [3, 4, 5], "track_id") == (before, after)
