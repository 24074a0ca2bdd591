"""The commands, each a short list of steps; every one of them can be stopped anywhere and started again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date, timedelta

from pyspark.sql import DataFrame

from kpi_common.contracts import Dataset
from kpi_common.errors import first_of
from kpi_common.files import storage_for
from kpi_common.log import log
from spark_app.errors import NothingUsableError, UsageError
from spark_app.export.export import delete_old_exports, export_changes
from spark_app.forget.files import record_forgotten, rewrite_file, search_folders, search_lake
from spark_app.forget.rows import remove_rows
from spark_app.ingest.acceptance import judge_references, judge_streams, require_references
from spark_app.ingest.candidates import Candidate
from spark_app.ingest.database import sources, with_databases
from spark_app.ingest.discovery import list_input, read_manifest
from spark_app.ingest.file_ledger import Ledger, LedgerFolder
from spark_app.ingest.ingest import (
    choose_files,
    inspect_batch,
    open_versions,
    record_files,
    record_listing,
    record_quality,
    record_skipped,
    settle_files,
)
from spark_app.ingest.trial import Batch, note_trial, plan_batches
from spark_app.ingest.write_staged import count_written, delete_old_rows, write_files
from spark_app.kpis import all_kpis
from spark_app.lake.delta_tables import Table
from spark_app.lake.tables import Lake
from spark_app.publish.dirty_dates import DirtyDates, all_dates, find_dirty_dates, staged_versions
from spark_app.publish.glue_catalogue import catalogues, register_tables
from spark_app.publish.publish import publish
from spark_app.recovery import open_lake, take_back
from spark_app.run.context import Context
from spark_app.run.files import FileVersion, Status
from spark_app.run.forgotten import read_forgotten
from spark_app.run.result import RunResult, delete_old_results
from spark_app.run.state import StateFile
from spark_app.spark.kept_frames import KeptFrames
from spark_app.spark.session import plans_for


def run(context: Context, source: str | None, manifest: str | None) -> None:
    """Take in what is new, compute the KPIs of the dates it touches, export what was not delivered yet.

    The caller holds the lake's lock. Files are judged in one batch, unless a run has died of some of them.
    """
    with context.steps.step("list files"):
        if manifest:
            found = storage_for(manifest).find(manifest)
            context.result.manifest = {"path": manifest, "etag": found.etag if found else None}
        listing = read_manifest(manifest) if manifest else list_input(source or "")
    state = _open_lake(context)
    if context.forgotten.hashes:
        log("rows of forgotten users will be left out", users=len(context.forgotten.hashes))
    if sources(context.settings):
        with context.steps.step("read databases"):
            listing = with_databases(context, listing)
    with context.steps.step("choose files"):
        folder = LedgerFolder(state)
        ledger = folder.read(file.name for file in listing.files)
        choice = choose_files(listing, ledger, context.settings)
        record_listing(context.result, listing, choice)
    batches = plan_batches(choice.files, state.value)
    taken: list[Candidate] = []
    for number, batch in enumerate(batches, start=1):
        taken += _take_in(context, batch, batches[number:], state, folder, ledger)
    record_quality(context.result, taken)
    log("files", listed=len(listing.files), **dict(context.result.outcomes))
    kpis = _publish(context, state)
    _export(context, state, full=False, published=kpis)
    if catalogues(context.settings) and (taken or context.result.dirty_dates):
        with context.steps.step("register tables"):
            register_tables(context)
    _check_usable(context.result)


def _take_in(
    context: Context, batch: Batch, later: Sequence[Batch], state: StateFile, folder: LedgerFolder, ledger: Ledger
) -> Sequence[Candidate]:
    """Inspect, judge and stage the files of a batch, and settle what became of them."""
    step, result = context.steps.step, context.result
    data_bytes, reference_bytes = batch.unpacked_bytes, context.lake.reference_bytes()
    if not context.lake.many_references(data_bytes, reference_bytes):
        data_bytes += reference_bytes
    with plans_for(context.spark, data_bytes=data_bytes), KeptFrames(context.lake.scratch) as kept:
        with note_trial(state, batch, later):
            with step("inspect files"):
                candidates, choice = inspect_batch(context, batch, ledger)
                record_skipped(result, choice)
                record_files(result, candidates)
            with step("validate"):
                references = judge_references(context, candidates, kept)
                record_files(result, references.candidates)
                has_streams = any(c.file.dataset is Dataset.STREAMS for c in candidates)
                if has_streams or (candidates and not later):  # songs may be tried apart from users
                    require_references(references, state.value.newest_accepted)
                judged = references + judge_streams(context, candidates, references, ledger, kept)
                record_files(result, judged.candidates)
        with step("stage"):
            open_versions(state, ledger, judged.candidates)
            written = write_files(context, judged, ledger)
        with step("count staged rows"):
            counted = count_written(context, judged, written)
        with step("settle files"):
            settled = settle_files(context, folder, ledger, counted)
            record_files(result, settled)
    return settled


def _check_usable(result: RunResult) -> None:
    """Say in the result whether the run had anything to do.

    Raises:
        NothingUsableError: every new file was rejected.
    """
    taken = [file for file in result.files.values() if file.outcome in {"accepted", "rejected"}]
    if taken and all(file.outcome == "rejected" for file in taken):
        reasons = first_of([f"{file.file.name}: {file.reason}: {file.message}" for file in taken])
        raise NothingUsableError(f"every new file was rejected: {reasons}", code="all_rejected")
    if not taken and not result.dirty_dates and result.export is None:
        result.status = "nothing_to_do"
        log("nothing new", **dict(result.outcomes))


def rebuild(context: Context, first: date | None, last: date | None) -> None:
    """Compute the KPIs of all dates from `first` to `last` again from what is staged."""
    state = _open_lake(context)
    dates = all_dates(context, context.lake.staged(Dataset.STREAMS)) | all_dates(context, context.lake.kpi("hourly"))
    wanted = {
        day
        for day in dates
        if (first is None or day >= first.isoformat()) and (last is None or day <= last.isoformat())
    }
    if not wanted:
        raise UsageError(f"rebuild: nothing is staged from {first or 'the beginning'} to {last or 'the end'}")
    _export(context, state, full=False, published=_publish(context, state, wanted))


def withdraw(context: Context, names: list[str]) -> None:
    """Take back all rows of the named files and recompute the dates that they touched."""
    state = _open_lake(context)
    with context.steps.step("withdraw"):
        folder = LedgerFolder(state)
        ledger = folder.read(names)
        versions = []
        for name in dict.fromkeys(names):
            accepted = ledger.accepted(name)
            if accepted is None:
                raise UsageError(f"files withdraw {name}: no accepted file of this name; see `files list`")
            versions.append(replace(accepted, status=Status.WITHDRAWING, updated_at=context.now))
        state.save("withdraw", open=tuple(versions))
        take_back(context, versions)
        withdrawn = [
            replace(v, status=Status.WITHDRAWN, run_id=context.run_id, updated_at=context.now) for v in versions
        ]
        folder.settle(ledger, withdrawn, "withdrawn")
    _export(context, state, full=False, published=_publish(context, state))


def retry(context: Context, names: list[str]) -> None:
    """Let the next run take rejected or withdrawn files again."""
    folder = LedgerFolder(_open_lake(context))
    ledger = folder.read(names)
    released: list[FileVersion] = []
    for name in dict.fromkeys(names):
        held = [v for v in ledger.of(name) if v.status in {Status.REJECTED, Status.WITHDRAWN}]
        if not held:
            raise UsageError(f"files retry {name}: no rejected or withdrawn file of this name; see `files list`")
        released += [replace(version, status=Status.RELEASED, updated_at=context.now) for version in held]
    folder.settle(ledger, released, "retry")
    log("the next run takes these files again", files=len(names))


def export(context: Context, *, full: bool) -> None:
    """Export what changed since the newest receipt, or all days."""
    _export(context, _open_lake(context), full=full)


def restore(context: Context, run_id: str) -> None:
    """Make the KPI tables what they were before a run published to them; the next export delivers that."""
    state = _open_lake(context)
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
    _export(context, state, full=False)


def compact(context: Context) -> None:
    """Merge small files; delete what is past its retention.

    That is: quarantined rows, results of runs, old versions of tables, and exports that a newer delivered one contains.
    """
    _open_lake(context)
    lake = context.lake
    if context.settings.quarantine_days:
        limit = context.now - timedelta(days=context.settings.quarantine_days)
        with context.steps.step("delete old quarantined rows"):
            delete_old_rows(context, limit)
        with context.steps.step("delete old results"):
            delete_old_results(lake, limit)
    for table in _tables(lake):
        with context.steps.step(f"compact {table.uri.removeprefix(lake.uri).strip('/')}"):
            table.compact(context.spark, context.settings.retention_days)
    with context.steps.step("delete old exports"):
        delete_old_exports(context, context.settings.retention_days)


def forget_users(
    context: Context, user_ids: Iterable[int], folders: Sequence[str], *, rewrite: bool, dry_run: bool
) -> None:
    """Remove users everywhere: noted as forgotten first, so that nothing brings them back, and again by each try.

    Without ids, what was forgotten before is looked for again, such as after a backup was brought back. A dry run
    changes nothing, and takes back nothing that a dead run left.
    """
    state = None if dry_run else _open_lake(context)
    step = context.steps.step
    known = read_forgotten(context.lake, context.settings, with_key=True)
    forgotten = known.adding(user_ids)
    if not forgotten.hashes:
        raise UsageError("forget-user: name a user's id, or a file of ids with --ids")
    if state is not None and forgotten != known:
        with step("note whom to forget"):
            forgotten.write(context.lake)
    with step("remove rows"):
        rows = remove_rows(context, forgotten, dry_run=dry_run)
    with step("search files"):
        in_lake, others = search_lake(context, forgotten), search_folders(context, folders, forgotten)
    if state is not None:
        with step("rewrite files"):
            in_lake = [rewrite_file(context, state, found, forgotten) for found in in_lake]
            others = [rewrite_file(context, state, found, forgotten) for found in others] if rewrite else others
    record_forgotten(context.result, forgotten, rows, [*in_lake, *others], dry_run=dry_run)
    if state is None:
        return
    _export(context, state, full=False, published=_publish(context, state))
    with step("delete old versions"):
        for table in _tables(context.lake):
            table.delete_old_versions(context.spark, retention_days=0)
        delete_old_exports(context, retention_days=0)


def _tables(lake: Lake) -> list[Table]:
    """Return the Delta tables of a lake, those that there are."""
    tables = [*(lake.staged(dataset) for dataset in Dataset), *(lake.kpi(kpi.name) for kpi in all_kpis())]
    return [table for table in [*tables, lake.quarantine] if table.version() >= 0]


def _open_lake(context: Context) -> StateFile:
    with context.steps.step("open lake"):
        return open_lake(context)


def _publish(context: Context, state: StateFile, also: Iterable[str] = ()) -> Mapping[str, DataFrame]:
    """Publish the KPIs of all dirty dates, and of others that are named; save what they were made from."""
    with context.steps.step("find dirty dates"):
        versions = staged_versions(context)
        dirty = find_dirty_dates(context, state.value.progress, versions)
        dirty = DirtyDates(dirty.dates.union(also), dirty.may_be_emptied.union(also))
    context.result.dirty_dates = sorted(dirty.dates)
    published = publish(context, dirty, versions)
    if versions != state.value.progress:
        with context.steps.step("save progress"):
            state.save("progress", progress=versions)
    return published


def _export(
    context: Context, state: StateFile, *, full: bool, published: Mapping[str, DataFrame] | None = None
) -> None:
    """Export what is due. `published` are the rows of all dates that this run computed, where it computed any."""
    with context.steps.step("export"):
        newest = state.value.newest_accepted.get(Dataset.STREAMS)
        context.result.export = export_changes(context, newest, full=full, computed=published)
    if published:
        context.lake.empty_scratch()
