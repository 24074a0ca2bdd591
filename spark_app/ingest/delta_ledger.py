"""Ledger and progress of a lake of an earlier release, which kept both as Delta tables: read once and converted."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC
from typing import Any

from pyspark.sql import SparkSession

from kpi_common.contracts import Dataset
from kpi_common.log import log
from spark_app.errors import UsageError
from spark_app.ingest.file_ledger import Ledger, LedgerFolder, newest_accepted
from spark_app.lake.tables import Lake
from spark_app.run.context import Context
from spark_app.run.files import FileVersion, Status
from spark_app.run.state import Progress, StateFile

_OPEN = {Status.PENDING, Status.WITHDRAWING}


def convert_ledger(context: Context, state: StateFile) -> None:
    """Make `ops/state.json` and `ops/files/` from the tables, if there are some. The tables are not written any more.

    Raises:
        UsageError: there are staged rows, but nothing says of which files.
    """
    versions = read_delta_ledger(context.lake, context.start_spark)
    if not versions:
        if any(context.lake.staged(dataset).version() >= 0 for dataset in Dataset):
            raise UsageError(
                f"{context.lake.uri}: has staged tables, but no ops/state.json: restore ops/ from a backup, or build "
                "another lake from the files"
            )
        return
    settled = [version for version in versions if version.status not in _OPEN]
    folder = LedgerFolder(state)
    folder.read(version.name for version in settled)
    folder.write(Ledger(settled), [version.name for version in settled])
    state.save(
        "convert",
        next_file_id=1 + max(version.file_id for version in versions),
        progress=_read_progress(context),
        newest_accepted=newest_accepted(settled),
        open=tuple(version for version in versions if version.status in _OPEN),
    )
    log("the ledger of an earlier release was converted", files=len(versions))


def read_delta_ledger(lake: Lake, start_spark: Callable[[], SparkSession]) -> list[FileVersion]:
    """Read the ledger of a lake of an earlier release; nothing where there is none."""
    table = lake.ingested_files
    if table.version() < 0:
        return []
    return [_from_row(row.asDict()) for row in table.read(start_spark()).collect()]


def _from_row(fields: dict[str, Any]) -> FileVersion:
    for name in ("modified_at", "updated_at"):
        fields[name] = fields[name].replace(tzinfo=UTC)
    fields["dataset"], fields["status"] = Dataset(fields["dataset"]), Status(fields["status"])
    fields["quarantined_by_reason"] = json.loads(fields["quarantined_by_reason"])
    return FileVersion(**fields)


def _read_progress(context: Context) -> Progress:
    table = context.lake.progress
    row = table.read(context.spark).first() if table.version() >= 0 else None
    return Progress(row["streams_version"], row["songs_version"], row["users_version"]) if row else Progress()
