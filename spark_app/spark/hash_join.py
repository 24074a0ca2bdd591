"""Joins of very many rows with a table of ids that is at hand everywhere: by a number made from the id.

Two different ids may have the same number, though with a million of them the odds are one to tens of millions. So
the ids themselves are compared as well, and where two of the table have the same number, the join goes by the ids.
"""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

MANY_ROWS = 1_000_000  # of fewer, the look for equal numbers costs more than it saves
MOST_KEYS = 2_000_000  # some 40 bytes each, in every executor


def hashes_differ(keys: DataFrame, column: str) -> bool:
    """Whether no two of these ids, each unique, have the same number."""
    told = keys.select(F.xxhash64(column).alias("hash")).agg(F.count(F.lit(1)), F.count_distinct("hash")).first()
    return told is not None and told[0] == told[1]


def join_by_hash(rows: DataFrame, keys: DataFrame, column: str, found: str) -> DataFrame:
    """Add the other columns of `keys`; of them, `found` is never NULL there, and NULL where a row has no match.

    Both have `column`, an id; those of `keys` must pass `hashes_differ`. One row in, one row out.
    """
    others = [name for name in keys.columns if name not in {column, found}]
    hashed = keys.select(
        F.xxhash64(column).alias("hash of the id"), F.col(column).alias("id of the hash"), found, *others
    )
    joined = rows.withColumn("hash of the id", F.xxhash64(column)).join(
        F.broadcast(hashed), on="hash of the id", how="left"
    )
    same = F.when(F.col("id of the hash") == F.col(column), F.col(found))
    return joined.withColumn(found, same).drop("hash of the id", "id of the hash")
