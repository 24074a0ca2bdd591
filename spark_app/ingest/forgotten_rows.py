"""Rows that name a user whom the lake has forgotten: counted, but neither staged nor kept in the quarantine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql import types as T

from kpi_common.contracts import Dataset
from spark_app.ingest.validation import FORGOTTEN, Checked
from spark_app.run.forgotten import Forgotten


def flag_forgotten(checked: Checked, forgotten: Forgotten) -> Checked:
    """Set the bit FORGOTTEN, and no other, in rows that name a forgotten user (one row in, one row out).

    A row names one by its user_id or, where that can't be read, by any field. The frame has `known_user`: forgotten
    users are not staged, so of listens only those of unknown users are looked at.
    """
    if not forgotten.hashes or checked.contract.dataset is Dataset.SONGS:
        return checked
    of_streams = checked.contract.dataset is Dataset.STREAMS
    user_id = F.when(~F.col("known_user"), F.col("user_id")) if of_streams else F.col("user_id")
    unreadable = F.when(checked.quarantined & F.col("user_id").isNull(), F.col("raw"))
    flagged = F.when(names_forgotten(forgotten)(user_id, unreadable), F.lit(FORGOTTEN)).otherwise(F.col("broken_rules"))
    return replace(checked, frame=checked.frame.withColumn("broken_rules", flagged))


def names_forgotten(forgotten: Forgotten) -> Callable[[Column, Column], Column]:
    """Return a function of columns: whether a user_id, or a field of a text, is that of a forgotten user.

    In Python, as what stands in a plan, such as a key or an id, also stands in Spark's event log.
    """

    @F.udf(T.BooleanType())
    def names(user_id: int | None, text: str | None) -> bool:
        return (user_id is not None and user_id in forgotten) or (text is not None and forgotten.are_named_in(text))

    return names
