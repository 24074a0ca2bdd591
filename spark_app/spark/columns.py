"""Expressions on columns that several packages share: time zones, lists of names, and a barrier for the optimizer."""

from __future__ import annotations

from itertools import pairwise

from pyspark.sql import Column
from pyspark.sql import functions as F

from kpi_common.contracts import WHITE_SPACE

NAMES_SEPARATOR = ";"
_AGES, _OLDEST = (18, 25, 35, 45, 55, 65), 130


def local_to_instant(local: Column, zone: str) -> Column:
    """Read a zoneless time in a zone: a doubled hour takes its earlier offset, a skipped one moves on."""
    return local if zone == "UTC" else F.to_utc_timestamp(local, zone)


def instant_to_local(instant: Column, zone: str) -> Column:
    """The clock of a zone at an instant, as a timestamp whose UTC fields are the local ones."""
    return instant if zone == "UTC" else F.from_utc_timestamp(instant, zone)


def age_band(age: Column) -> Column:
    """The band of an age in years, as text: `under 18`, `18-24`, `25-34` … `65+`; `unknown` outside 0 to 130."""
    band = F.when(~age.between(0, _OLDEST) | age.isNull(), "unknown").when(age < _AGES[0], f"under {_AGES[0]}")
    for first, next_first in pairwise(_AGES):
        band = band.when(age < next_first, f"{first}-{next_first - 1}")
    return band.otherwise(f"{_AGES[-1]}+")


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
