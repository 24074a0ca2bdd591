"""Joins of very many rows with a broadcast table of ids: by the ids' 64-bit hashes.

Two different ids may have the same hash, though with a million of them the odds are one to tens of millions. So the
ids themselves are compared as well, and where two of the table have the same hash, the join goes by the ids.
"""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

MANY_ROWS = 1_000_000  # of fewer, the look for equal hashes costs more than it saves
MAX_KEYS = 2_000_000  # some 40 bytes each, in every executor


def broadcast_if_small(frame: DataFrame, rows: int) -> DataFrame:
    """Have joins send the whole frame to every executor if it has few enough rows."""
    return F.broadcast(frame) if rows <= MAX_KEYS else frame


def rows_named(rows: DataFrame, names: DataFrame, column: str) -> DataFrame:
    """Keep all rows with an id of `names`, which are few and need not be unique: one pass, without a shuffle.

    A row in many millions may stay, too, whose id has the same hash as one of them.
    """
    hashes = names.select(F.xxhash64(column).alias("id_hash")).distinct()
    return rows.join(F.broadcast(hashes), on=F.xxhash64(rows[column]) == hashes["id_hash"], how="left_semi")


def hashes_differ(keys: DataFrame, column: str) -> bool:
    """Whether no two of these ids, each unique, have the same hash."""
    counts = keys.select(F.xxhash64(column).alias("hash")).agg(F.count(F.lit(1)), F.count_distinct("hash")).first()
    return counts is not None and counts[0] == counts[1]


def join_by_hash(rows: DataFrame, keys: DataFrame, column: str, found: str) -> DataFrame:
    """Add the other columns of `keys`; of them, `found` is never NULL there, and NULL where a row has no match.

    Both have `column`, an id; those of `keys` must pass `hashes_differ`. One row in, one row out.
    """
    others = [name for name in keys.columns if name not in {column, found}]
    hashed = keys.select(F.xxhash64(column).alias("id_hash"), F.col(column).alias("hashed_id"), found, *others)
    joined = rows.withColumn("id_hash", F.xxhash64(column)).join(F.broadcast(hashed), on="id_hash", how="left")
    same = F.when(F.col("hashed_id") == F.col(column), F.col(found))
    return joined.withColumn(found, same).drop("id_hash", "hashed_id")
