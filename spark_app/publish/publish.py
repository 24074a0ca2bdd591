"""Publish: KPIs of dirty dates are computed from pinned versions, audited, and written, one Delta commit a table."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from kpi_common.log import log
from spark_app.config.contracts import Dataset
from spark_app.errors import AuditError
from spark_app.kpis import all_kpis
from spark_app.kpis.catalogue_ahead import CatalogueAhead
from spark_app.kpis.inputs import (
    count_plays,
    day_listeners,
    day_totals,
    known_listens,
    kpi_inputs,
    unique_listens,
)
from spark_app.publish.audit import failed, judge, judge_emptied, sum_expectations, table_expectations
from spark_app.publish.dirty_dates import DirtyDates, all_dates
from spark_app.run.context import Context
from spark_app.run.state import Progress
from spark_app.spark.hash_join import MANY_ROWS, hashes_differ
from spark_app.spark.session import widen_shuffles

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
    with ExitStack() as cached:
        with context.steps.step("compute and audit KPIs"):
            frames, staged_counts = _compute(context, dates, versions, CatalogueAhead(context), cached)
            _audit(context, frames, staged_counts, dirty)
        with context.steps.step("publish KPIs"):
            _write(context, frames, dates)
    return frames


def _write(context: Context, frames: dict[str, DataFrame], dates: list[str]) -> None:
    """Replace these dates in every KPI table; the tables are independent, so they are written side by side."""
    condition = f"listen_date IN ({', '.join(f'DATE{date!r}' for date in dates)})"
    tasks = min(len(dates), context.spark.sparkContext.defaultParallelism)

    def write(name: str) -> tuple[str, int]:
        frame = frames[name].repartition(tasks, "listen_date") if tasks > 1 else frames[name].coalesce(1)
        metadata = context.metadata("publish")
        return f"kpis/{name}", context.lake.kpi(name).replace(frame, condition, metadata, ("listen_date",))

    with ThreadPoolExecutor(_TABLES_AT_ONCE) as pool:
        context.result.tables.update(pool.map(write, frames))


def _compute(
    context: Context, dates: list[str], versions: Progress, catalogues: CatalogueAhead, cached: ExitStack
) -> tuple[dict[str, DataFrame], DataFrame]:
    def keep(frame: DataFrame) -> DataFrame:
        cached.callback(frame.unpersist)
        return frame.persist()

    def small(frame: DataFrame) -> DataFrame:
        return frame.localCheckpoint(eager=False)

    streams = context.lake.staged(Dataset.STREAMS).read(context.spark, versions.streams_version)
    staged = streams.where(F.col("listen_date").isin([F.lit(date).cast("date") for date in dates]))
    zone = context.settings.kpi_time_zone
    # Each of these has stretches that keep one core busy or none, so they run side by side.
    with ThreadPoolExecutor() as pool:
        prepared = pool.submit(_prepare_for, context, staged)
        catalogue = catalogues.at(versions.songs_version)
        rows, of_several_files = prepared.result()
        by_hash = rows >= MANY_ROWS and catalogue.at_hand and hashes_differ(catalogue.genre_masks, "track_id")
        known = known_listens(unique_listens(staged, of_several_files), catalogue, zone, by_hash=by_hash)
        plays = keep(count_plays(known, zone))
        counting = pool.submit(plays.count)
        day = small(day_listeners(known, catalogue.genres))
        counting.result()
        inputs = kpi_inputs(known, day, plays, catalogue, zone)
        # Genres are summed up beside the KPIs that don't need it; the others wait for it.
        summed_up = pool.submit(small, inputs.genre_days)
        inputs = replace(inputs, genres_summed_up=summed_up.result)
        computed = pool.map(lambda kpi: (kpi.name, small(kpi.compute(inputs))), all_kpis())
        return dict(computed), day_totals(day)


def _prepare_for(context: Context, staged: DataFrame) -> tuple[int, list[str]]:
    """Make shuffles as wide as these rows need; return how many they are, and the dates with some of several files."""
    several = F.min("file_id") != F.max("file_id")
    dates = staged.groupBy("listen_date").agg(several.alias("several"), F.count(F.lit(1)).alias("rows")).collect()
    rows = sum(row["rows"] for row in dates)
    widen_shuffles(context.spark, rows)
    return rows, [str(row["listen_date"]) for row in dates if row["several"]]


def _audit(context: Context, frames: dict[str, DataFrame], staged_counts: DataFrame, dirty: DirtyDates) -> None:
    expectations = [e for kpi in all_kpis() for e in table_expectations(kpi, frames[kpi.name])]
    expectations += sum_expectations(frames["hourly"], frames["daily_genre"], staged_counts)
    results = judge(expectations)
    published = {str(row[0]) for row in frames["hourly"].select("listen_date").distinct().collect()}
    without = set(dirty.dates) - published
    emptied = without & all_dates(context, context.lake.kpi("hourly")) if without else set()
    results.append(judge_emptied(emptied, set(dirty.may_be_emptied)))
    context.result.audit += results
    wrong = failed(results)
    if wrong:
        details = "; ".join(f"{result.check}: {result.detail}" for result in wrong)
        raise AuditError(f"audit failed, no KPI was published: {details}")
