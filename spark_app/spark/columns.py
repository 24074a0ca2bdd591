"""Expressions on columns that several rooms share: time zones, lists of names, and a barrier for the optimizer."""

from __future__ import annotations

from pyspark.sql import Column
from pyspark.sql import functions as F

WHITE_SPACE = " \t\r\n\f\v"
NAMES_SEPARATOR = ";"


def local_to_instant(local: Column, zone: str) -> Column:
    """Read a zoneless time in a zone: a doubled hour takes its earlier offset, a skipped one moves on."""
    return local if zone == "UTC" else F.to_utc_timestamp(local, zone)


def instant_to_local(instant: Column, zone: str) -> Column:
    """The clock of a zone at an instant, as a timestamp whose UTC fields are the local ones."""
    return instant if zone == "UTC" else F.from_utc_timestamp(instant, zone)


def names_list(text: Column) -> Column:
    """Split a text of names at `;`: trimmed, without empty ones, each once, in order."""
    parts = F.transform(F.split(text, NAMES_SEPARATOR), lambda part: F.btrim(part, F.lit(WHITE_SPACE)))
    return F.array_distinct(F.filter(parts, lambda part: part != ""))


def optimizer_barrier(column: Column) -> Column:
    """Keep the optimiser from looking through this column's projection.

    It would move filters below it, with the column's definition in them, and so parse each row once for every mention
    of a field; and it drops the order of rows where it sees that a join comes after it. A column that is formally not
    deterministic stays where it is; the value does not change.
    """
    return column + F.monotonically_increasing_id() * F.lit(0)
