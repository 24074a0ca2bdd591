"""Listens, songs and users as short tuples, and the KPI inputs made of them."""

from collections import Counter
from collections.abc import Sequence

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_app.kpis.definition import KpiInputs
from spark_app.kpis.inputs import Staged, kpi_inputs
from spark_app.spark.columns import instant_to_local
from spark_app.spark.kept_frames import KeptFrames
from tests.unit.spark_app.builders import STAGED_SONGS, instant

STAGED = "file_id int, user_id bigint, track_id string, listen_time timestamp"
STAGED_USERS = "file_modified_at timestamp, user_id bigint, user_age bigint, user_country string, created_at string"
FILE_TIME = instant("2024-06-01 00:00:00")

Listen = tuple[int, str, str]
Song = tuple[str, str, str, str, int, int]
User = tuple[int, str | None]


def staged(spark: SparkSession, listens: Sequence[tuple[int, int, str, str]], zone: str = "UTC") -> DataFrame:
    """(file_id, user_id, track_id, time in UTC) as staged rows."""
    rows = [(file_id, user, track, instant(time)) for file_id, user, track, time in listens]
    day = F.to_date(instant_to_local(F.col("listen_time"), zone))
    return spark.createDataFrame(rows, STAGED).withColumn("listen_date", day)


def inputs(
    spark: SparkSession,
    listens: Sequence[Listen],
    songs: Sequence[Song],
    zone: str = "UTC",
    users: Sequence[User] = (),
) -> KpiInputs:
    """KPI inputs of listens (user_id, track_id, time), songs (track, genre, name, artists, popularity, ms) and users.

    The album of a song is named by its artists.
    """
    rows = [
        (FILE_TIME, "songs.csv", track, None, genre, name, artists, f"album of {artists}", likes, ms)
        for track, genre, name, artists, likes, ms in songs
    ]
    people = [(FILE_TIME, user, None, country, None) for user, country in users]
    listened = staged(spark, [(1, *listen) for listen in listens], zone).coalesce(1)
    given = Staged(
        listened,
        spark.createDataFrame(rows, STAGED_SONGS).coalesce(1),
        spark.createDataFrame(people, STAGED_USERS).coalesce(1),
        Counter(time[:10] for _, _, time in listens),
    )
    return kpi_inputs(given, zone, KeptFrames("none"))[0]


def song(track: str, genre: str = "pop", popularity: int = 0, ms: int = 1000, artists: str = "A") -> Song:
    """A song of whom only some attributes matter; its name is made of its track_id."""
    return track, genre, f"name of {track}", artists, popularity, ms


def plays(track: str, count: int, day: str = "2024-06-25") -> list[Listen]:
    """So many listens of a track, by as many users."""
    return [(user, track, f"{day} 10:00:00") for user in range(count)]
