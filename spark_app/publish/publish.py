"""Publish: KPIs of dirty dates are computed from pinned versions, audited, and written, one Delta commit per table."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from pyspark.sql import DataFrame

from kpi_common.contracts import Dataset
from kpi_common.log import log
from spark_app.errors import AuditError
from spark_app.kpis import all_kpis
from spark_app.kpis.inputs import Staged, kpi_inputs, only_named, rows_per_date
from spark_app.lake.delta_tables import of_dates
from spark_app.publish.audit import failed, judge, judge_emptied, sum_expectations, table_expectations
from spark_app.publish.dirty_dates import DirtyDates, all_dates
from spark_app.run.context import Context
from spark_app.run.state import Progress
from spark_app.spark.kept_frames import KeptFrames
from spark_app.spark.session import BYTES_PER_ROW, plans_for, plans_for_a_pass, tasks_at_once

_TABLES_AT_ONCE = 3


def publish(context: Context, dirty: DirtyDates, versions: Progress) -> dict[str, DataFrame]:
    """Make the KPI tables of these dates equal a computation over everything staged at `versions`.

    Returns:
        By table, the rows that were written: all that the tables now hold of these dates.

    Raises:
        AuditError: a check failed; no table was changed.
    """
    dates = sorted(dirty.dates)
    if not dates:
        return {}
    log("dates to compute", dates=len(dates), first=dates[0], last=dates[-1])
    with ExitStack() as until_written:
        with context.steps.step("compute and audit KPIs"), KeptFrames(context.lake.scratch) as kept:
            staged = _read_staged(context, dates, versions)
            rows, reference = sum(staged.rows_per_date.values()), context.lake.reference_bytes()
            if context.lake.many_references(rows * BYTES_PER_ROW, reference):
                with plans_for_a_pass(context.spark):
                    staged, named = only_named(staged, kept)
                reference = named * BYTES_PER_ROW
            until_written.enter_context(plans_for(context.spark, rows=rows, data_bytes=reference))
            inputs, staged_counts = kpi_inputs(staged, context.settings.kpi_time_zone, kept)
            frames = {kpi.name: kept.keep(kpi.compute(inputs)) for kpi in all_kpis()}
            _audit(context, frames, staged_counts, dirty)
        with context.steps.step("publish KPIs"):
            _write(context, frames, dates)
    return frames


def _read_staged(context: Context, dates: list[str], versions: Progress) -> Staged:
    """Read the listens of these dates, and all songs and users, each table pinned at its version."""
    songs, users, streams = (
        context.lake.staged(dataset).read(context.spark, versions.of(dataset))
        for dataset in (Dataset.SONGS, Dataset.USERS, Dataset.STREAMS)
    )
    listens = streams.where(of_dates(dates))
    return Staged(listens, songs, users, rows_per_date(listens))


def _write(context: Context, frames: dict[str, DataFrame], dates: list[str]) -> None:
    """Replace these dates in every KPI table; the tables are independent, so they are written side by side."""
    tasks = min(len(dates), tasks_at_once(context.spark))

    def write(name: str) -> tuple[str, int]:
        frame = frames[name].repartition(tasks, "listen_date") if tasks > 1 else frames[name].coalesce(1)
        metadata = context.metadata("publish")
        return f"kpis/{name}", context.lake.kpi(name).replace(frame, of_dates(dates), metadata, ("listen_date",))

    with ThreadPoolExecutor(_TABLES_AT_ONCE) as pool:
        context.result.tables.update(pool.map(write, frames))


def _audit(context: Context, frames: dict[str, DataFrame], staged_counts: DataFrame, dirty: DirtyDates) -> None:
    of_tables = [table_expectations(kpi, frames[kpi.name]) for kpi in all_kpis()]
    results = judge([*of_tables, sum_expectations(frames["hourly"], frames["daily_genre"], staged_counts)])
    published = {str(row[0]) for row in frames["hourly"].select("listen_date").distinct().collect()}
    without = set(dirty.dates) - published
    emptied = without & all_dates(context, context.lake.kpi("hourly")) if without else set()
    results.append(judge_emptied(emptied, set(dirty.may_be_emptied)))
    context.result.audit += results
    wrong = failed(results)
    if wrong:
        details = "; ".join(f"{result.check}: {result.detail}" for result in wrong)
        raise AuditError(f"audit failed, no KPI was published: {details}")
