"""The steps of a run, one function for each task: plain data in and out, each to be done again at any time.

Nothing here knows Airflow; `dags/music_streaming_pipeline.py` puts the steps in order and sends the alerts.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypedDict

from kpi_common.aws import new_client, plain_aws_errors
from kpi_common.errors import AppError
from kpi_common.files import open_lake
from kpi_common.log import log, warn
from kpi_common.s3_files import S3Storage
from kpi_pipeline.alerts import messages
from kpi_pipeline.alerts.messages import Alert
from kpi_pipeline.emr import job as emr_job
from kpi_pipeline.emr.request import job_name, job_request
from kpi_pipeline.errors import ResultError, SupersededError
from kpi_pipeline.export.delivery import Delivery, PartReport, mend_newer, verify_and_mend
from kpi_pipeline.export.reader import Export, find_undelivered, read_export, read_receipt
from kpi_pipeline.files import archive, outcome
from kpi_pipeline.files.archive import archive_problem, is_to_move, move_done
from kpi_pipeline.files.arrivals import (
    STREAMS,
    claim_arrivals,
    find_run_manifest,
    list_source,
    manifest_uri,
    read_run_manifest,
    run_folder,
    safe_name,
    write_run_manifest,
)
from kpi_pipeline.files.claims import REJECTED, ClaimLedger, Liveness
from kpi_pipeline.files.input_checks import all_streams_bad, check_inputs
from kpi_pipeline.files.outcome import FileOutcomes
from kpi_pipeline.monitoring import figures, sinks, unusual
from kpi_pipeline.redshift import load as redshift_load
from kpi_pipeline.settings import PipelineSettings

JOB_TASK = "run_spark_app"
FILES_SHOWN = 20


class Run(TypedDict):
    """A run as claim_files hands it on: `files` is how many were claimed, `claimed` has the names of the first."""

    run_id: str
    settings: dict[str, Any]
    files: int
    claimed: list[str]


class SparkJob(TypedDict):
    """A Spark job as run_spark_app hands it on: where its log is, and its result when it has ended."""

    job_id: str
    log: str
    result: str


class PartGroup(TypedDict):
    """Parts of an export that one task writes; `started` in seconds since 1970."""

    export: str
    parts: list[int]
    started: float


class WrittenGroup(PartGroup):
    """The same with what was done."""

    superseded: bool
    reports: list[dict[str, Any]]


class Delivered(TypedDict):
    """What a delivery has made complete."""

    export: str
    export_seq: int
    complete_through: str | None
    dates: list[str]


def claim_files(settings: Mapping[str, Any], run_id: str, run_state: emr_job.RunState) -> Run | None:
    """Claim what is new and write the run manifest; None when there is nothing to do at all.

    Args:
        settings: the run's, as plain data.
        run_id: Airflow's id of the run.
        run_state: Airflow's state of another run, or None where it doesn't know it.
    """
    its = PipelineSettings(**settings)
    buckets, ledger = S3Storage(), ClaimLedger(its.delivery)
    ledger.ensure_table()
    files = list_source(buckets, its)
    manifest = find_run_manifest(buckets, its, run_id)  # of the same run, when this task is cleared
    again = None if manifest is None else {file["name"] for file in manifest["files"]}
    found = claim_arrivals(files, ledger, run_id, its, Liveness(run_state, its.claim_hours), again)
    to_move = [file for file, entry in found.done if is_to_move(file, entry) and not archive_problem(its, file, entry)]
    undelivered = find_undelivered(open_lake(its.lake)).export is not None
    log(
        "files",
        listed=len(files),
        claimed=len(found.claimed),
        to_archive=len(to_move),
        held=len(found.held),
        waiting=found.waiting,
        export_undelivered=undelivered,
    )
    if not found.claimed and not to_move and not undelivered and manifest is None:
        return None
    if manifest is None:
        write_run_manifest(buckets, its, run_id, [*found.known_reference, *found.claimed])
    names = [file.name for file in found.claimed]
    return Run(run_id=run_id, settings=dict(settings), files=len(names), claimed=names[:FILES_SHOWN])


def validate_inputs(run: Run) -> tuple[bool, Alert | None]:
    """Check the claimed files cheaply; tell whether a Spark job is worth its cost.

    Raises:
        InputError: there are no songs or no users.
    """
    settings = settings_of(run)
    if not run["files"]:
        log("no new file: only what an earlier run left is finished")
        return False, None
    buckets = S3Storage()
    files = read_run_manifest(buckets, settings, run["run_id"])["files"]
    problems = check_inputs(buckets, settings, files)
    claimed = _claimed_now(settings, run, files)
    if not all_streams_bad(claimed, problems) or any(file["dataset"] != STREAMS for file in claimed):
        return True, None
    reasons = {problem.name: problem.reason for problem in problems}
    outcomes = outcome.reject(ClaimLedger(settings.delivery), run["run_id"], files, reasons)
    return False, messages.files_not_taken(settings, run["run_id"], FileOutcomes(rejected=outcomes.rejected))


def build_job(run: Run) -> dict[str, Any]:
    """Return the Spark job's request, as the operator takes it."""
    settings = settings_of(run)
    return job_request(settings, run["run_id"], ["run", "--manifest", manifest_uri(settings, run["run_id"])])


def build_maintenance_job(settings: Mapping[str, Any], run_id: str) -> dict[str, Any] | None:
    """Return the request for the job that compacts the lake, or None where there is no lake yet."""
    its = PipelineSettings(**settings)
    if S3Storage().find(f"{its.lake}/lake.json") is None:
        return None
    return job_request(its, run_id, ["compact", "--set", f"quarantine_days={its.quarantine_days}"])


def delete_old_samples(settings: Mapping[str, Any]) -> int:
    """Delete old reasons of rejected files, which hold samples of bad rows; return how many."""
    return archive.delete_old_reasons(S3Storage(), PipelineSettings(**settings))


def prepare_delivery(run: Run, max_groups: int) -> tuple[list[PartGroup], Alert | None]:
    """Check the newest undelivered export, make tables that are missing, take the lease; return what is to be written.

    Args:
        run: of claim_files.
        max_groups: into so many groups the export's parts are put at most.
    """
    settings = settings_of(run)
    found = find_undelivered(open_lake(settings.lake))
    broken = messages.exports_broken(run["run_id"], found.broken)
    if found.export is None:
        log("nothing to deliver: the newest export is delivered, or there is none")
        return [], broken
    try:
        _delivery(settings, run, found.export).prepare(adopt_lake=settings.adopt_lake)
    except SupersededError as error:
        warn(str(error))
        return [], broken
    numbers = [part.number for part in found.export.parts]
    groups = [numbers[first::max_groups] for first in range(min(max_groups, len(numbers)))]
    return [PartGroup(export=found.export.run_id, parts=group, started=time.time()) for group in groups], broken


def write_parts(run: Run, group: PartGroup) -> WrittenGroup:
    """Write some parts of an export to DynamoDB and return what was done."""
    settings = settings_of(run)
    delivery = _delivery(settings, run, read_export(open_lake(settings.lake), group["export"]))
    try:
        _take_lease(delivery, settings)
        reports = [delivery.write_part(number).to_json() for number in group["parts"]]
    except SupersededError as error:
        _superseded(settings, delivery, error)
        return WrittenGroup(**group, superseded=True, reports=[])
    return WrittenGroup(**group, superseded=False, reports=reports)


def verify_delivery(run: Run, written: Iterable[WrittenGroup]) -> tuple[Delivered | None, Alert | None]:
    """Read everything back, write again what differs, tell readers that the days are complete, write the receipt.

    Returns:
        What is complete now, or None when a newer export has taken this one's place; an alert of items left out.
    """
    settings = settings_of(run)
    written = list(written)
    if any(group["superseded"] for group in written):
        return None, None
    export = read_export(open_lake(settings.lake), written[0]["export"])
    delivery = _delivery(settings, run, export)
    try:
        _take_lease(delivery, settings)
        reports = [PartReport(**report) for group in written for report in group["reports"]]
        reports = verify_and_mend(delivery, reports, settings.delivery.writer.verify_rounds)
        receipt = delivery.finish(reports, time.time() - min(group["started"] for group in written))
    except SupersededError as error:
        _superseded(settings, delivery, error)
        return None, None
    log("delivered", export_seq=export.export_seq, dates=len(export.dates), items=export.items)
    delivered = Delivered(
        export=export.run_id,
        export_seq=export.export_seq,
        complete_through=export.complete_through,
        dates=list(export.dates),
    )
    return delivered, messages.items_not_delivered(run["run_id"], receipt["undeliverable"])


def mark_as_processed(run: Run, job: SparkJob | None) -> tuple[dict[str, Any], Alert | None]:
    """Write into `ProcessedStreams` what became of each file; the alert tells what was not taken in.

    Raises:
        ResultError: the job's result is missing or is not that of this run's manifest.
    """
    settings = settings_of(run)
    if job is None:  # nothing was claimed, or all of it was rejected before
        return FileOutcomes().to_json(), None
    buckets, ledger = S3Storage(), ClaimLedger(settings.delivery)
    result = _result(buckets, settings, run["run_id"], job["result"])
    files = read_run_manifest(buckets, settings, run["run_id"])["files"]
    claimed = {file["name"] for file in _claimed_now(settings, run, files)}
    outcomes = outcome.mark_processed(ledger, run["run_id"], files, result)
    rejected = {name: reason for name, reason in outcomes.rejected.items() if name in claimed}
    unknown = {name: why for name, why in outcomes.failed.items() if why.startswith(outcome.NOT_MENTIONED)}
    found = FileOutcomes(rejected=rejected, failed=unknown)
    return outcomes.to_json(), messages.files_not_taken(settings, run["run_id"], found)


def archive_files(run: Run, job: SparkJob | None) -> tuple[dict[str, Any], Alert | None]:
    """Move what is done out of the source, also what an earlier run left there."""
    settings = settings_of(run)
    buckets = S3Storage()
    result = emr_job.read_result(job["result"]) if job is not None else None
    details = {file["name"]: file for file in (result or {}).get("files", [])}
    ledger = ClaimLedger(settings.delivery)
    moved = move_done(buckets, ledger, settings, list_source(buckets, settings), details=details)
    new = {name: why for name, why in moved.left.items() if name in details}  # the others were in an alert before
    return moved.to_json(), messages.files_not_archived(run["run_id"], new)


def prepare_redshift(run: Run) -> list[dict[str, Any]]:
    """Return what the operator needs for each transaction that loads an export; nothing where Redshift is off."""
    settings = settings_of(run)
    if not settings.redshift_is_on:
        return []
    due = redshift_load.prepare(open_lake(settings.lake), settings)
    return [{"sql": statements, **settings.target} for statements in due.values()]


def clean_up(run: Run, *, done: bool) -> int:
    """Delete intermediate files of runs that died long ago, and of this run unless it may have to go on."""
    settings = settings_of(run)
    return archive.clean_up(S3Storage(), settings, run_folder(settings, run["run_id"]) if done else None)


def mark_failed(
    settings: Mapping[str, Any], run_id: str, failures: Mapping[str, str], job: SparkJob | None
) -> tuple[dict[str, Any], Alert]:
    """Give the claims of a failed run back; a job that is still alive, as its task was stopped, is cancelled.

    Args:
        settings: the run's, as plain data.
        run_id: Airflow's id of the run.
        failures: what each failed task failed of, "" where that could not be recorded.
        job: the run's, as far as it is known.
    """
    its, failures = PipelineSettings(**settings), dict(failures)
    found, result = None, None
    try:
        found = _ended_job(its, run_id, job)
        result = None if found is None else emr_job.read_result(emr_job.result_uri(found))
        if found is not None and JOB_TASK in failures:
            failures[JOB_TASK] = failures[JOB_TASK] or emr_job.failure_of(found, result).public
    except AppError as error:
        warn("it is not known how the Spark job ended", run_id=run_id, reason=str(error))
    shown = {} if found is None else {"job_id": found["jobRunId"], "log": emr_job.log_location(found)}
    reason = "; ".join(f"{task}: {message}" for task, message in failures.items()) or messages.NO_REASON
    try:
        outcomes = _give_back(its, run_id, reason, result)
    except AppError as error:
        problem = f"The claims could not be given back: {error}. The next run gives them up."
        return {}, messages.run_failed(run_id, failures, FileOutcomes(), shown, problem)
    return outcomes.to_json(), messages.run_failed(run_id, failures, outcomes, shown)


def report_run(
    settings: Mapping[str, Any],
    run_id: str,
    job: SparkJob | None,
    delivered: Delivered | None,
    before: Sequence[Mapping[str, Any]],
    *,
    succeeded: bool,
) -> tuple[dict[str, Any], Alert | None]:
    """Hand the figures of a run to whatever collects them; what can't be had or handed over is only warned of.

    Args:
        settings: the run's, as plain data.
        run_id: Airflow's id of the run.
        job: the Spark job, if there was one.
        delivered: what was delivered, if anything.
        before: what this returned for the runs before that succeeded, the oldest first.
        succeeded: whether no task has failed.

    Returns:
        What the next runs need of this one, and an alert of what is unusual.
    """
    its = PipelineSettings(**settings)
    found = list(figures.run_figures(datetime.now(UTC), succeeded=succeeded))
    result = None
    with _only_warned("the figures of the job"):
        result = None if job is None else emr_job.read_result(job["result"])
        if job is not None and result is not None:
            found += figures.job_figures(result, _billed(its, job))
    with _only_warned("the figures of the delivery"):
        if delivered is not None:
            receipt = read_receipt(open_lake(its.lake), delivered["export"])
            found += figures.delivery_figures(receipt, delivered["complete_through"])
    with _only_warned("figures for CloudWatch"):
        sinks.to_cloudwatch(its, run_id, found)
    with _only_warned("figures for Prometheus"):
        sinks.to_prometheus(its, found)
    kept = {"event": "succeeded" if succeeded else "failed", "run_id": run_id}
    if result is None or not succeeded:
        return kept, None
    unusual_now = unusual.problems(its, result, before)
    return {**kept, **unusual.shares_of(result)}, messages.unusual_run(run_id, unusual_now)


def _billed(settings: PipelineSettings, job: SparkJob) -> Mapping[str, float]:
    """Return what EMR bills for a job; nothing where it doesn't say (yet)."""
    found: dict[str, Any] = {}
    with _only_warned("what EMR bills"):
        found = emr_job.get_job(new_client("emr-serverless"), settings.emr_application_id, job["job_id"])
    return found.get("billedResourceUtilization") or {}


@contextmanager
def _only_warned(what: str) -> Iterator[None]:
    """Let no trouble of monitoring fail a run."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 (see above)
        warn(f"{what}: not reported", reason=f"{type(error).__name__}: {error}")


def _ended_job(settings: PipelineSettings, run_id: str, job: SparkJob | None) -> dict[str, Any] | None:
    emr, application_id = new_client("emr-serverless"), settings.emr_application_id
    if job is not None:
        found: dict[str, Any] | None = emr_job.get_job(emr, application_id, job["job_id"])
    else:  # the task died before it could hand the job on, or there was none
        found = emr_job.live_job(emr, application_id, job_name(run_id), settings.lake, lambda _: None)
    if found is not None and found["state"] not in emr_job.TERMINAL_STATES:
        found = emr_job.cancel(emr, application_id, found["jobRunId"])
    return found


def _give_back(settings: PipelineSettings, run_id: str, reason: str, result: Mapping[str, Any] | None) -> FileOutcomes:
    buckets, ledger = S3Storage(), ClaimLedger(settings.delivery)
    manifest = find_run_manifest(buckets, settings, run_id)
    if manifest is None:
        return FileOutcomes()  # it failed before it claimed anything
    outcomes = outcome.mark_failed(ledger, run_id, manifest["files"], result, reason)
    details = {file["name"]: file for file in (result or {}).get("files", [])}
    if outcomes.rejected:
        move_done(buckets, ledger, settings, list_source(buckets, settings), frozenset({REJECTED}), details)
    return outcomes


# --- what the steps share ---


def settings_of(run: Run) -> PipelineSettings:
    """Return the settings as they were read when the run began."""
    return PipelineSettings(**run["settings"])


def _result(buckets: S3Storage, settings: PipelineSettings, run_id: str, uri: str) -> dict[str, Any]:
    """Return the result of a job that succeeded, if it is of the manifest that the run has now."""
    result = emr_job.read_result(uri)
    if result is None:
        raise ResultError(f"{uri} is missing, but the job succeeded")
    manifest = manifest_uri(settings, run_id)
    present, named = buckets.find(manifest), result.get("manifest") or {}
    if present is None or named.get("etag") != present.etag:
        etag = None if present is None else present.etag
        raise ResultError(f"{uri} is of another manifest ({named}) than {manifest} ({etag}): clear run_spark_app")
    return result


def _claimed_now(settings: PipelineSettings, run: Run, files: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the files of the manifest that this run has claimed; the others are reference data known before."""
    entries = ClaimLedger(settings.delivery).read(file["name"] for file in files)
    return [file for file in files if file["name"] in entries and entries[file["name"]].run_id == run["run_id"]]


def _delivery(settings: PipelineSettings, run: Run, export: Export) -> Delivery:
    holder = f"airflow:{safe_name(run['run_id'])}"
    return Delivery(open_lake(settings.lake), export, settings.delivery, holder=holder)


def _take_lease(delivery: Delivery, settings: PipelineSettings) -> None:
    with plain_aws_errors("DynamoDB"):
        delivery.lease.acquire(adopt_lake=settings.adopt_lake)


def _superseded(settings: PipelineSettings, delivery: Delivery, error: SupersededError) -> None:
    warn(str(error))
    if delivery.has_written:
        mend_newer(open_lake(settings.lake), error, settings.delivery)
