"""Staging: the frames of valid rows and of quarantined rows, as they are written to the lake.

Every valid row of every file is kept, unique within its file; what several files say twice is settled when KPIs are
computed, so that a copy in another file survives a correction.
"""

from __future__ import annotations

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from kpi_common.contracts import Dataset
from spark_app.ingest.validation import Checked
from spark_app.spark.columns import age_band, instant_to_local

LISTEN = ("file_id", "user_id", "track_id", "listen_time")  # what makes two rows of a file say the same
STREAM_PARTITIONS = ("listen_date",)
_MICROS_PER_DAY = 86_400_000_000
QUARANTINE_SCHEMA = (
    "file_id int, dataset string, file_name string, line_number bigint, raw string, reasons array<string>, "
    "run_id string, quarantined_at timestamp"
)


def staged_streams(kept: DataFrame, kpi_time_zone: str, buckets: int, partitions: int) -> DataFrame:
    """Grain: (file_id, user_id, track_id, listen_time), with `copies`, the rows of the file that say the same.

    One shuffle brings the rows of a date together (in `buckets` parts), so that duplicates are found and each date is
    written as few files.
    """
    place = listen_day(kpi_time_zone)
    if buckets > 1:
        place = place * F.lit(buckets) + F.pmod(F.hash("user_id"), F.lit(buckets))
    placed = kept.select(*LISTEN, place.alias("place")).repartition(partitions, "place")
    unique = placed.groupBy("place", *LISTEN).agg(F.count(F.lit(1)).cast("int").alias("copies"))
    day = F.date_from_unix_date(_rounded_down(F.col("place"), buckets).cast("int"))
    return unique.select(*LISTEN, "copies", day.alias("listen_date"))


def listen_day(kpi_time_zone: str) -> Column:
    """The day of `listen_time` in a zone, in days since 1970.

    By division: Spark's own way from a time to its date goes through the clock's fields, for each row.
    """
    return _rounded_down(F.unix_micros(instant_to_local(F.col("listen_time"), kpi_time_zone)), _MICROS_PER_DAY)


def _rounded_down(number: Column, divisor: int) -> Column:
    return F.call_function("div", number - F.pmod(number, F.lit(divisor)), F.lit(divisor))


def staged_songs(kept: DataFrame, names: DataFrame) -> DataFrame:
    """Grain: (file_id, track_id, track_genre): the file's most popular row, then the smallest id, then the raw text.

    `names` gives (file_id, file_name), by which files of one modification time are ordered.
    """
    best = [F.coalesce("popularity", F.lit(0)).desc(), F.col("id").asc_nulls_last(), F.col("raw")]
    unique = _first_of(kept, ["file_id", "track_id", "track_genre"], best)
    return unique.join(F.broadcast(names), on="file_id", how="inner").select(
        "file_id",
        "file_modified_at",
        "file_name",
        "track_id",
        "track_genre",
        "id",
        "track_name",
        "artists",
        "album_name",
        F.coalesce("popularity", F.lit(0)).alias("popularity"),
        "duration_ms",
        "copies",
    )


def staged_users(kept: DataFrame) -> DataFrame:
    """Grain: (file_id, user_id): the row created last, then the first by its raw text.

    Of a person, only the country and an age band (`25-34`, or `unknown`) are staged, which KPIs may count by.
    """
    best = [F.col("created_at").desc_nulls_last(), F.col("raw")]
    unique = _first_of(kept, ["file_id", "user_id"], best)
    band = age_band(F.col("user_age")).alias("age_band")
    return unique.select("file_id", "file_modified_at", "user_id", "user_country", band, "copies")


def quarantine_records(checked: Checked, names: DataFrame, dataset: Dataset, run_id: str, now: Column) -> DataFrame:
    """Grain: a quarantined row, with its raw text, all its reasons and where it stands."""
    own_header = (F.col("line_number") == 1) & F.col("is_header")
    rows = checked.frame.where(checked.quarantined & ~F.coalesce(own_header, F.lit(False)))
    return rows.join(F.broadcast(names), on="file_id", how="inner").select(
        "file_id",
        F.lit(str(dataset)).alias("dataset"),
        "file_name",
        "line_number",
        "raw",
        checked.reasons_column().alias("reasons"),
        F.lit(run_id).alias("run_id"),
        now.alias("quarantined_at"),
    )


def _first_of(frame: DataFrame, keys: list[str], order: list[Column]) -> DataFrame:
    """Keep the first row of each key by `order`, with `copies`, the number of rows of the key."""
    window = Window.partitionBy(*keys)
    ranked = frame.select(
        "*",
        F.row_number().over(window.orderBy(*order)).alias("place"),
        F.count(F.lit(1)).over(window).cast("int").alias("copies"),
    )
    return ranked.where(F.col("place") == 1).drop("place")
