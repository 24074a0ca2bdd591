from datetime import date

from chispa import assert_df_equality
from pyspark.sql import SparkSession

from spark_app.kpis.top_songs import top_songs
from tests.unit.spark_app.kpis.inputs import Listen, Song, inputs, plays, song

DAY = date(2024, 6, 25)


def ranking(spark: SparkSession, listens: list[Listen], songs: list[Song]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in top_songs(inputs(spark, listens, songs)).orderBy("track_genre", "rank").collect():
        found.setdefault(row["track_genre"], []).append(row["track_id"])
    return found


def test_a_row_has_rank_names_artists_and_plays(spark: SparkSession) -> None:
    found = top_songs(inputs(spark, [*plays("t1", 1), *plays("t2", 3)], [song("t1"), song("t2", artists="B; C")]))
    rows = [(DAY, "pop", 1, "t2", "name of t2", "B; C", 3), (DAY, "pop", 2, "t1", "name of t1", "A", 1)]
    columns = (
        "listen_date date, track_genre string, rank int, track_id string, track_name string, artists string, "
        "play_count bigint"
    )
    expected = spark.createDataFrame(rows, columns)
    assert_df_equality(found, expected, ignore_row_order=True, ignore_nullable=True)


def test_plays_come_before_popularity_and_popularity_before_the_id(spark: SparkSession) -> None:
    songs = [song("a", popularity=0), song("b", popularity=9), song("c", popularity=9), song("d", popularity=99)]
    listens = [*plays("a", 3), *plays("c", 2), *plays("b", 2), *plays("d", 1)]
    assert ranking(spark, listens, songs) == {"pop": ["a", "b", "c"]}


def test_ids_are_ordered_by_their_bytes(spark: SparkSession) -> None:
    ids = ["10", "9", "Z", "a", "é", "\uff5e", "\U0001f600"]
    for start in range(0, len(ids) - 2, 2):
        some = ids[start : start + 3]
        listens = [listen for track in reversed(some) for listen in plays(track, 1)]
        assert ranking(spark, listens, [song(track) for track in some]) == {"pop": some}


def test_each_genre_has_three_songs_at_most_and_ranks_of_its_own(spark: SparkSession) -> None:
    songs = [song(track, "pop") for track in "abcd"] + [song("d", "rock"), song("e", "rock")]
    listens = [*plays("a", 4), *plays("b", 3), *plays("c", 2), *plays("d", 1), *plays("e", 2)]
    assert ranking(spark, listens, songs) == {"pop": ["a", "b", "c"], "rock": ["e", "d"]}


def test_popularity_is_that_of_the_genres_own_row(spark: SparkSession) -> None:
    songs = [song("a", "pop", 1), song("a", "rock", 9), song("b", "pop", 5), song("b", "rock", 5)]
    assert ranking(spark, [*plays("a", 1), *plays("b", 1)], songs) == {"pop": ["b", "a"], "rock": ["a", "b"]}
