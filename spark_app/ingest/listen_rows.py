"""Rows of streams files as they are kept between the passes over them: narrow, as each costs something a column.

What is known of a row is packed into one number, its text is kept only where it is bad, and of a track the number that
it has in this run (`profile.References`).
"""

from __future__ import annotations

from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from spark_app.config.contracts import MOST_CHECKS, MOST_COLUMNS
from spark_app.ingest.file_profile import References
from spark_app.ingest.validation import Checked

# Name, type, first bit and bits of what is known of a row, in one bigint. (`lines` is 0 or 1, `nulls` has a bit for
# each column, `broken_rules` for each check.)
_MARKS = (
    ("lines", "int", 0, 1),
    ("is_header", "boolean", 1, 1),
    ("known_track", "boolean", 2, 1),
    ("known_user", "boolean", 3, 1),
    ("nulls", "bigint", 4, MOST_COLUMNS),
    ("broken_rules", "bigint", 4 + MOST_COLUMNS, MOST_CHECKS),
)

# What makes two rows of a file say the same.
LISTEN = ("file_id", "user_id", "track_no", "track_without_no", "listen_time")


def narrow(rows: DataFrame, checked: Checked) -> DataFrame:
    """Keep of each row what later passes need; `rows` are those of `checked`, looked up."""
    names = [name for name in checked.contract.names if name != "track_id"]
    marks = [F.shiftleft(F.col(name).cast("bigint"), bit) for name, _, bit, _ in _MARKS]
    return rows.select(
        *("file_id", "block", "row", *names, "track_no"),
        F.when(F.col("track_no").isNull(), F.col("track_id")).alias("track_without_no"),
        reduce(Column.bitwiseOR, marks).alias("marks"),
        F.when(checked.quarantined, F.col("raw")).alias("raw"),
    )


def widened(narrow_rows: DataFrame) -> DataFrame:
    """Take the marks apart again; see `with_track_ids` for the track's id."""
    marks = [
        F.shiftright("marks", bit).bitwiseAND(F.lit((1 << bits) - 1)).cast(kind).alias(name)
        for name, kind, bit, bits in _MARKS
    ]
    return narrow_rows.select("*", *marks).drop("marks")


def with_track_ids(rows: DataFrame, references: References) -> DataFrame:
    """Put `track_id` in the place of `track_no` and `track_without_no`."""
    track_id = F.col("track_without_no")
    if references.numbers and references.tracks is not None:
        numbered = references.tracks.select("track_no", F.col("track_id").alias("numbered"))
        rows = rows.join(F.broadcast(numbered), on="track_no", how="left")
        track_id = F.coalesce(track_id, F.col("numbered"))
    return rows.withColumn("track_id", track_id).drop("track_no", "track_without_no", "numbered")
