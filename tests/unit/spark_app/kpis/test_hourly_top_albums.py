from datetime import date

from chispa import assert_df_equality
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from spark_app.kpis.definition import KpiInputs
from spark_app.kpis.hourly_top_albums import hourly_top_albums
from tests.unit.spark_app.builders import instant
from tests.unit.spark_app.kpis.inputs import Listen, Song, inputs, plays, song


def with_albums(spark: SparkSession, listens: list[Listen], songs: list[Song]) -> KpiInputs:
    """KPI inputs in which the artists of a song are its album; a song by nobody is on no album."""
    given = inputs(spark, listens, songs)
    album = F.nullif(F.replace("album_name", F.lit("album of "), F.lit("")), F.lit("nobody"))
    return KpiInputs(**{**vars(given), "tracks": given.tracks.withColumn("album_name", album)})


def test_five_albums_by_plays_then_by_the_bytes_of_their_names(spark: SparkSession) -> None:
    songs = [song(f"t{name}", artists=name) for name in ("é", "a", "Z", "B", "b", "x")]
    songs += [song("t1", artists="x"), song("t2", artists="nobody")]
    listens = [listen for track in songs for listen in plays(track[0], 9 if track[0] == "t2" else 1)]
    hour = instant("2024-06-25 10:00:00")
    ranking = [("x", 2), ("B", 1), ("Z", 1), ("a", 1), ("b", 1)]
    rows = [(date(2024, 6, 25), hour, rank, *album) for rank, album in enumerate(ranking, 1)]
    schema = "listen_date date, listen_hour timestamp, rank int, album_name string, play_count bigint"
    found = hourly_top_albums(with_albums(spark, listens, songs))
    assert_df_equality(found, spark.createDataFrame(rows, schema), ignore_row_order=True, ignore_nullable=True)
