"""The commands, each a short list of steps; every one of them can be stopped anywhere and started again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date

from pyspark.sql import DataFrame

from kpi_common.log import log
from spark_app.config.contracts import Dataset
from spark_app.errors import NothingUsableError, UsageError
from spark_app.export.export import delete_old_exports, export_changes
from spark_app.ingest.discovery import Listing, list_input, read_manifest
from spark_app.ingest.file_ledger import Ledger, load_ledger, save_ledger
from spark_app.ingest.ingest import ingest
from spark_app.kpis import all_kpis
from spark_app.kpis.catalogue_ahead import CatalogueAhead
from spark_app.lake.tables import mark_lake
from spark_app.publish.dirty_dates import (
    DirtyDates,
    all_dates,
    find_dirty_dates,
    load_progress,
    save_progress,
    staged_versions,
)
from spark_app.publish.publish import publish
from spark_app.recovery import recover, take_back
from spark_app.run.context import Context
from spark_app.run.files import Status


def run(context: Context, source: str | None, manifest: str | None) -> None:
    """Take in what is new, compute the KPIs of the dates it touches, export what was not delivered yet."""
    with context.steps.step("list files"):
        listing = read_manifest(manifest) if manifest else list_input(source or "")
    ledger = _begin(context)
    before = Counter(context.result.unlisted)
    catalogues = CatalogueAhead(context)
    try:
        save = ingest(context, listing, ledger, catalogues.begin)
    finally:
        _sum_up(context, listing, before)
    with ThreadPoolExecutor(1) as pool:
        saving = pool.submit(save)  # while KPIs are computed
        _finish(context, ledger, catalogues=catalogues, before_publishing=saving.result)
    taken = [file for file in context.result.files if file.outcome in {"accepted", "rejected"}]
    if taken and all(file.outcome == "rejected" for file in taken):
        reasons = "; ".join(f"{file.file.name}: {file.reason}: {file.message}" for file in taken[:20])
        raise NothingUsableError(f"every new file was rejected: {reasons}", code="all_rejected")
    if not taken and not context.result.dirty_dates and context.result.export is None:
        context.result.status = "nothing_to_do"
        log("nothing new")


def rebuild(context: Context, first: date | None, last: date | None) -> None:
    """Compute the KPIs of all dates from `first` to `last` again from what is staged."""
    ledger = _begin(context)
    there = all_dates(context, context.lake.staged(Dataset.STREAMS)) | all_dates(context, context.lake.kpi("hourly"))
    wanted = {
        day
        for day in there
        if (first is None or day >= first.isoformat()) and (last is None or day <= last.isoformat())
    }
    if not wanted:
        raise UsageError(f"rebuild: nothing is staged from {first or 'the beginning'} to {last or 'the end'}")
    _finish(context, ledger, also=wanted)


def withdraw(context: Context, names: list[str]) -> None:
    """Take back all rows of the named files and recompute the dates that they touched."""
    ledger = _begin(context)
    versions = []
    for name in names:
        accepted = ledger.accepted(name)
        if accepted is None:
            raise UsageError(f"files withdraw {name}: no accepted file of this name; see `files list`")
        versions.append(replace(accepted, status=Status.WITHDRAWING, updated_at=context.now))
    with context.steps.step("withdraw"):
        ledger.put(*versions)
        save_ledger(context.spark, context.lake.ingested_files, ledger, names, context.metadata("withdraw"))
        take_back(context, versions)
        for version in versions:
            ledger.settle(replace(version, status=Status.WITHDRAWN, run_id=context.run_id, updated_at=context.now))
        save_ledger(context.spark, context.lake.ingested_files, ledger, names, context.metadata("withdraw"))
    _finish(context, ledger)


def retry(context: Context, names: list[str]) -> None:
    """Let the next run take rejected or withdrawn files again."""
    ledger = _begin(context)
    for name in names:
        held = [v for v in ledger.of(name) if v.status in {Status.REJECTED, Status.WITHDRAWN}]
        if not held:
            raise UsageError(f"files retry {name}: no rejected or withdrawn file of this name; see `files list`")
        ledger.put(*(replace(v, status=Status.RELEASED, updated_at=context.now) for v in held))
    save_ledger(context.spark, context.lake.ingested_files, ledger, names, context.metadata("retry"))
    log("the next run takes these files again", files=len(names))


def export(context: Context, *, full: bool) -> None:
    """Export what changed since the newest receipt, or all days."""
    ledger = _begin(context)
    _export(context, ledger, full=full)


def restore(context: Context, run_id: str) -> None:
    """Make the KPI tables what they were before a run published to them; the next export delivers that."""
    ledger = _begin(context)
    found = False
    with context.steps.step("restore"):
        for kpi in all_kpis():
            table = context.lake.kpi(kpi.name)
            versions = [c.version for c in table.commits_back() if c.user_metadata.get("run_id") == run_id]
            if versions:
                found = True
                table.restore(context.spark, min(versions) - 1, context.metadata("restore", restored_run=run_id))
    if not found:
        raise UsageError(f"restore --run {run_id}: no KPI table has a commit of this run (or its log is gone)")
    _export(context, ledger, full=False)


def compact(context: Context) -> None:
    """Merge small files; delete old versions, and exports that a newer delivered one contains, after the retention."""
    _begin(context)
    lake = context.lake
    tables = [lake.staged(dataset) for dataset in Dataset] + [lake.kpi(kpi.name) for kpi in all_kpis()]
    tables += [lake.quarantine, lake.ingested_files, lake.progress]
    for table in tables:
        if table.version() < 0:
            continue
        with context.steps.step(f"compact {table.uri.removeprefix(lake.uri).strip('/')}"):
            table.compact(context.spark, context.settings.retention_days)
    with context.steps.step("delete old exports"):
        delete_old_exports(context)


def _begin(context: Context) -> Ledger:
    """Open the lake: mark a new one, read the ledger, finish what a dead run left."""
    with context.steps.step("open lake"):
        mark_lake(context.lake, context.settings)
        ledger = load_ledger(context.start_spark, context.lake.ingested_files)
        recover(context, ledger, load_progress(context))
    return ledger


def _finish(
    context: Context,
    ledger: Ledger,
    also: set[str] | None = None,
    catalogues: CatalogueAhead | None = None,
    before_publishing: Callable[[], None] = lambda: None,
) -> None:
    """Publish the KPIs of all dirty dates, save the progress, export."""
    with context.steps.step("find dirty dates"):
        done, now = load_progress(context), staged_versions(context)
        dirty = find_dirty_dates(context, done, now)
    dirty = DirtyDates(dirty.dates | frozenset(also or ()), dirty.may_be_emptied | frozenset(also or ()))
    context.result.dirty_dates = sorted(dirty.dates)
    published = publish(context, dirty, now, catalogues or CatalogueAhead(context), before_publishing)
    save_progress(context, done, now)
    _export(context, ledger, full=False, published=published)


def _export(context: Context, ledger: Ledger, *, full: bool, published: Mapping[str, DataFrame] | None = None) -> None:
    """Export what is due. `published` are the rows of all dates that this run computed, where it computed any."""
    with context.steps.step("export"):
        context.result.export = export_changes(context, ledger.complete_through, full=full, computed=published)


def _sum_up(context: Context, listing: Listing, before: Counter[str]) -> None:
    outcomes = Counter(file.outcome for file in context.result.files) + (context.result.unlisted - before)
    log("files", listed=len(listing.files), **dict(outcomes))
