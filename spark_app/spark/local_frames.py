"""Frames of rows that the driver knows.

`createDataFrame` sends such rows through Python workers, whose start costs a small run more than all its listens.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_STRICT = {"mode": "FAILFAST"}


def local_frame(spark: SparkSession, rows: Iterable[Sequence[Any]], schema: str) -> DataFrame:
    """Return a frame of some rows, in one partition; `schema` is a list of `name type`, and times have a zone.

    The rows are one literal, so that they stay in Java. They should be thousands at most.
    """
    types = dict(column.split() for column in schema.split(","))
    text = json.dumps([dict(zip(types, row, strict=True)) for row in rows], default=_microseconds)
    fields = (f"{name}: {'bigint' if kind == 'timestamp' else kind}" for name, kind in types.items())
    values = F.from_json(F.lit(text), f"array<struct<{', '.join(fields)}>>", _STRICT)
    columns = (F.timestamp_micros(name).alias(name) if types[name] == "timestamp" else F.col(name) for name in types)
    return spark.range(0, 1, 1, 1).select(F.inline(values)).select(*columns)


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)
