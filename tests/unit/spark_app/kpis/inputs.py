"""Listens and songs as short tuples, and the KPI inputs made of them."""

from collections.abc import Sequence

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_app.kpis.definition import KpiInputs
from spark_app.kpis.inputs import (
    count_plays,
    day_listeners,
    known_listens,
    kpi_inputs,
    number_catalogue,
    unique_listens,
)
from spark_app.spark.columns import instant_to_local
from tests.unit.spark_app.builders import SONGS, instant

STAGED = "file_id int, user_id bigint, track_id string, listen_time timestamp"

Listen = tuple[int, str, str]
Song = tuple[str, str, str, str, int, int]


def staged(spark: SparkSession, listens: Sequence[tuple[int, int, str, str]], zone: str = "UTC") -> DataFrame:
    """(file_id, user_id, track_id, time in UTC) as staged rows."""
    rows = [(file_id, user, track, instant(time)) for file_id, user, track, time in listens]
    day = F.to_date(instant_to_local(F.col("listen_time"), zone))
    return spark.createDataFrame(rows, STAGED).withColumn("listen_date", day)


def inputs(spark: SparkSession, listens: Sequence[Listen], songs: Sequence[Song], zone: str = "UTC") -> KpiInputs:
    """KPI inputs of listens (user_id, track_id, time) and songs (track, genre, name, artists, popularity, ms)."""
    rows = [(track, None, genre, name, artists, likes, ms) for track, genre, name, artists, likes, ms in songs]
    named = spark.createDataFrame(rows, SONGS).coalesce(1)
    catalogue = number_catalogue(named, lambda frame: frame)
    listened = unique_listens(staged(spark, [(1, *listen) for listen in listens], zone).coalesce(1))
    known = known_listens(listened, catalogue, zone)
    return kpi_inputs(known, day_listeners(known, catalogue.genres), count_plays(known, zone), catalogue, zone)


def song(track: str, genre: str = "pop", popularity: int = 0, ms: int = 1000, artists: str = "A") -> Song:
    """A song of whom only some attributes matter; its name is made of its track_id."""
    return track, genre, f"name of {track}", artists, popularity, ms


def plays(track: str, count: int, day: str = "2024-06-25") -> list[Listen]:
    """So many listens of a track, by as many users."""
    return [(user, track, f"{day} 10:00:00") for user in range(count)]
