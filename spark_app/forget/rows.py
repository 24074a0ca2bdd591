"""Rows of forgotten users leave the staged tables and the quarantine, one commit a table.

No id gets into a plan or a condition, as these stand in Spark's event log and in Delta's: whole dates or files are
replaced by their other rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from kpi_common.contracts import Dataset
from spark_app.ingest.forgotten_rows import names_forgotten
from spark_app.lake.delta_tables import Table
from spark_app.run.context import Context
from spark_app.run.forgotten import Forgotten
from spark_app.spark.session import plans_for


def remove_rows(context: Context, forgotten: Forgotten, *, dry_run: bool) -> dict[str, dict[str, int]]:
    """Remove all rows that name forgotten users; doing it again removes nothing more.

    Returns:
        How many rows, by table and by the date (of listens) or file_id in which they stood.
    """
    lake = context.lake
    tables = {"staged/streams": lake.staged(Dataset.STREAMS), "staged/users": lake.staged(Dataset.USERS)}
    tables["quarantine/records"] = lake.quarantine
    found = {}
    for name, table in tables.items():
        if table.version() < 0:
            continue
        with plans_for(context.spark, data_bytes=table.stored_bytes()):
            rows = table.read(context.spark)
            named = _quarantined(rows, forgotten) if table.uri == lake.quarantine.uri else _staged(rows, forgotten)
            part = "listen_date" if "listen_date" in rows.columns else "file_id"
            found[name] = _remove(context, table, rows, named, part, dry_run=dry_run)
    return found


def _staged(rows: DataFrame, forgotten: Forgotten) -> DataFrame:
    """Grain: the user_id of a forgotten user of these rows."""
    users = rows.select("user_id").distinct()
    ids = users.where(names_forgotten(forgotten)(F.col("user_id"), F.lit(None).cast("string"))).collect()
    return rows.sparkSession.createDataFrame(ids, "user_id bigint")


def _quarantined(rows: DataFrame, forgotten: Forgotten) -> DataFrame:
    """Grain: (file_id, line_number, raw) of a row that names a forgotten user, in any field, as it is a broken one."""
    of_users = rows.where(F.col("dataset") != str(Dataset.SONGS)).select("file_id", "line_number", "raw").distinct()
    return of_users.where(names_forgotten(forgotten)(F.lit(None).cast("bigint"), F.col("raw")))


def _remove(
    context: Context, table: Table, rows: DataFrame, named: DataFrame, part: str, *, dry_run: bool
) -> dict[str, int]:
    """Replace the parts (dates, files) that hold such rows by their other rows; return how many went, by part."""
    keys = F.broadcast(named)
    counts: Mapping[date | int, int] = {
        row[0]: row[1] for row in rows.join(keys, on=named.columns, how="left_semi").groupBy(part).count().collect()
    }
    if counts and not dry_run:
        parts = sorted(f"DATE'{value}'" if isinstance(value, date) else str(value) for value in counts)
        condition = f"{part} IN ({', '.join(parts)})"
        others = rows.where(condition).join(keys, on=named.columns, how="left_anti").select(*rows.columns)
        table.replace(others, condition, context.metadata("forget"))
    return {str(value): count for value, count in counts.items()}
