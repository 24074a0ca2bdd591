from datetime import datetime

from pyspark.sql import SparkSession
from pyspark.sql import types as T

from spark_app.config.dynamodb_layout import load_layout
from spark_app.export.views import Kpis, view
from spark_app.kpis import all_kpis
from tests.unit.spark_app.kpis.inputs import inputs


def kpis(spark: SparkSession) -> Kpis:
    songs = [("d", "pop", 2, "t2", "Two, too"), ("d", "pop", 1, "t1", "One"), ("e", "pop", 1, "t3", "Three")]
    return {
        "daily_genre": spark.createDataFrame(
            [("d", "pop", 5), ("d", "rock", 1), ("e", "pop", 1)], "listen_date string, track_genre string, n int"
        ),
        "top_songs": spark.createDataFrame(
            songs, "listen_date string, track_genre string, rank int, track_id string, track_name string"
        ),
        "top_genres": spark.createDataFrame(
            [("d", 2, "rock"), ("d", 1, "pop"), ("e", 1, "pop")], "listen_date string, rank int, track_genre string"
        ),
        "hourly": spark.createDataFrame([("d", 10, 5), ("d", 11, 1)], "listen_date string, listen_hour int, n int"),
        "hourly_top_artists": spark.createDataFrame(
            [("d", 10, 2, "B"), ("d", 10, 1, "C")], "listen_date string, listen_hour int, rank int, artist string"
        ),
    }


def test_a_genre_of_a_day_shows_its_songs_and_the_days_genres_in_order_of_rank(spark: SparkSession) -> None:
    rows = {(row["listen_date"], row["track_genre"]): row for row in view("daily_genre", kpis(spark)).collect()}
    assert len(rows) == 3
    pop = rows["d", "pop"]
    assert pop["top_3_song_names"] == ["One", "Two, too"]
    assert pop["top_3_track_ids"] == ["t1", "t2"]
    assert pop["top_3_songs"] == "One, Two, too"
    assert pop["top_5_genres"] == rows["d", "rock"]["top_5_genres"] == "pop, rock"
    assert rows["e", "pop"]["top_5_genres"] == "pop"


def test_a_song_of_a_genre_has_a_key_of_genre_and_rank(spark: SparkSession) -> None:
    found = view("top_songs", kpis(spark)).orderBy("listen_date", "rank").collect()
    assert [row["genre_rank"] for row in found] == ["pop#1", "pop#2", "pop#1"]


def test_an_hour_shows_its_artists_and_an_hour_without_artists_stays(spark: SparkSession) -> None:
    found = view("hourly", kpis(spark)).orderBy("listen_hour").collect()
    assert [(row["listen_hour"], row["top_artists"]) for row in found] == [(10, ["C", "B"]), (11, None)]


def test_a_table_without_a_view_is_shown_as_it_is(spark: SparkSession) -> None:
    frames = kpis(spark)
    assert view("top_genres", frames) is frames["top_genres"]


def test_a_table_with_ranks_has_its_key_in_one_text(spark: SparkSession) -> None:
    albums = spark.createDataFrame(
        [("2024-06-25", datetime(2024, 6, 25, 13), 2, "B")],
        "listen_date string, listen_hour timestamp, rank int, album_name string",
    )
    rows = view("hourly_top_albums", {"hourly_top_albums": albums}).collect()
    assert [row["ranked_key"] for row in rows] == ["2024-06-25T13:00:00Z#2"]


def test_the_layout_says_how_many_digits_a_number_has(spark: SparkSession) -> None:
    """Tables of Redshift are made from it: without, decimals would not fit, or be rounded."""
    given = inputs(spark, [], [])
    frames = {kpi.name: kpi.compute(given) for kpi in all_kpis()}
    for name, table in load_layout().tables.items():
        types = {field.name: field.dataType for field in view(name, frames).schema}
        for attribute in table.attributes.values():
            if attribute.type == "N":
                found = types[attribute.column]
                scale = found.scale if isinstance(found, T.DecimalType) else 0
                assert scale == attribute.scale, (name, attribute.column)
