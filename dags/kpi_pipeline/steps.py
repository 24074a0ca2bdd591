"""The steps of a run, one function a task: plain data in and out, each to be done again at any time.

Nothing here knows Airflow; `dags/music_streaming_pipeline.py` puts the steps in order.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any, Callable

from kpi_common.aws import new_client, plain_aws_errors
from kpi_common.files import open_lake
from kpi_common.log import log, warn
from kpi_common.s3_files import S3Storage
from kpi_pipeline.alerts.failure_alert import Alert, SmtpServer, send_alert
from kpi_pipeline.emr.job import failure_of, get_job
from kpi_pipeline.errors import PipelineError, SupersededError
from kpi_pipeline.export.delivery import Delivery, PartReport, mend_newer, verify_and_mend
from kpi_pipeline.export.reader import Export, latest_undelivered
from kpi_pipeline.export.reader import read_manifest as read_export
from kpi_pipeline.files import archive as archiving
from kpi_pipeline.files import outcome as run_outcome
from kpi_pipeline.files.archive import move_done
from kpi_pipeline.files.arrivals import (
    STREAMS,
    claim_arrivals,
    list_source,
    read_manifest,
    run_folder,
    safe_name,
    write_manifest,
)
from kpi_pipeline.files.claims import REJECTED, ClaimLedger, Liveness
from kpi_pipeline.files.input_checks import all_streams_bad, check_inputs
from kpi_pipeline.files.outcome import Outcome
from kpi_pipeline.pipeline_settings import PipelineSettings
from kpi_pipeline.settings import DeliverySettings, load_settings

REJECTED_BY_HEADER = "missing_column"
JOB_TASK = "run_spark_app"
SETTINGS_EXIT_CODE = 2
FILES_TOLD = 20
Run = dict[str, Any]


def claim_files(settings: PipelineSettings, run_id: str, run_state: Callable[[str], str | None]) -> Run | None:
    """Claim what is new and write the run manifest.

    Args:
        settings: the run's.
        run_id: Airflow's id of the run.
        run_state: Airflow's state of another run, or None where it doesn't know it.

    Returns:
        The run as the other steps take it; None when there is nothing to do at all.
    """
    buckets, ledger = S3Storage(), _ledger(settings)
    ledger.ensure_table()
    files = list_source(buckets, settings)
    found = claim_arrivals(files, ledger, run_id, settings, Liveness(run_state, settings.claim_hours))
    export = latest_undelivered(open_lake(settings.lake))
    undelivered = export is not None
    log(
        "files",
        listed=len(files),
        claimed=len(found.claimed),
        to_archive=len(found.leftovers),
        held=len(found.held),
        waiting=found.waiting,
        export_undelivered=undelivered,
    )
    if not found.claimed and not found.leftovers and not undelivered:
        return None
    uri, _ = write_manifest(buckets, settings, run_id, [*found.known_reference, *found.claimed])
    return {
        "run_id": run_id,
        "settings": settings.to_json(),
        "manifest": uri,
        "claimed": [file.name for file in found.claimed][:FILES_TOLD],
        "files": len(found.claimed),
        "folder": run_folder(settings, run_id),
    }


def validate_inputs(run: Run, smtp: SmtpServer | None) -> bool:
    """Check the claimed files cheaply; return whether a Spark job is worth its cost.

    Raises:
        InputError: there are no songs or no users.
    """
    settings = settings_of(run)
    if not run["files"]:
        log("no new file: only what an earlier run left is finished")
        return False
    buckets = S3Storage()
    files = read_manifest(buckets, run["manifest"])["files"]
    problems = check_inputs(buckets, settings, files)
    claimed = _claimed_now(settings, run, files)
    if not all_streams_bad(claimed, problems) or any(file["dataset"] != STREAMS for file in claimed):
        return True
    reasons = {problem.name: f"{REJECTED_BY_HEADER}: {problem.message}" for problem in problems}
    outcome = run_outcome.reject(_ledger(settings), run["run_id"], files, reasons)
    alert_of_rejected(settings, smtp, run["run_id"], outcome)
    return False


def prepare_delivery(run: Run) -> list[dict[str, Any]]:
    """Check the newest undelivered export, make tables that are missing, take the lease; return the parts to write."""
    settings = settings_of(run)
    lake = open_lake(settings.lake)
    export = latest_undelivered(lake)
    if export is None:
        log("nothing to deliver: the newest export is delivered, or there is none")
        return []
    try:
        _delivery(settings, run, export).prepare(adopt_lake=settings.adopt_lake)
    except SupersededError as error:
        warn(str(error))
        return []
    return [{"export": export.run_id, "part": part.number, "started": time.time()} for part in export.parts]


def write_part(run: Run, part: Mapping[str, Any]) -> dict[str, Any]:
    """Write one part of an export to DynamoDB and return what was done."""
    settings = settings_of(run)
    export = read_export(open_lake(settings.lake), part["export"])
    delivery = _delivery(settings, run, export)
    try:
        _take_lease(delivery, settings)
        report = delivery.write_part(part["part"]).to_json()
    except SupersededError as error:
        warn(str(error))
        if delivery.has_written:
            mend_newer(open_lake(settings.lake), error, _delivery_settings(settings))
        return {**part, "superseded": True}
    return {**part, "superseded": False, "report": report}


def verify_delivery(run: Run, written: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Read everything back, write again what differs, tell readers that the days are complete, write the receipt."""
    settings = settings_of(run)
    written = list(written)
    if any(part["superseded"] for part in written):
        return {"outcome": "superseded"}
    lake = open_lake(settings.lake)
    export = read_export(lake, written[0]["export"])
    delivery = _delivery(settings, run, export)
    try:
        _take_lease(delivery, settings)
        rounds = _delivery_settings(settings).writer.verify_rounds
        reports = verify_and_mend(delivery, [PartReport(**part["report"]) for part in written], rounds)
        receipt = delivery.finish(reports, time.time() - min(part["started"] for part in written))
    except SupersededError as error:
        warn(str(error))
        if delivery.has_written:
            mend_newer(lake, error, _delivery_settings(settings))
        return {"outcome": "superseded"}
    log("delivered", export_seq=export.export_seq, dates=len(export.dates), items=export.items)
    return {"outcome": "delivered", "dates": receipt["dates"], "tables": receipt["tables"]}


def mark_as_processed(run: Run, spark_run_id: str | None, smtp: SmtpServer | None) -> dict[str, Any]:
    """Write into `ProcessedStreams` what became of each file; an alert tells what was rejected."""
    settings = settings_of(run)
    buckets = S3Storage()
    if spark_run_id is None:  # no job: nothing was claimed, or all of it was rejected before
        return Outcome().to_json()
    result = run_outcome.read_result(buckets, settings, spark_run_id)
    if result is None:
        raise PipelineError(f"{run_outcome.result_uri(settings, spark_run_id)} is missing, but the job succeeded")
    ledger = _ledger(settings)
    files = read_manifest(buckets, run["manifest"])["files"]
    claimed = [file["name"] for file in _claimed_now(settings, run, files)]
    outcome = run_outcome.mark_processed(ledger, run["run_id"], files, result)
    newly = {name: reason for name, reason in outcome.rejected.items() if name in claimed}
    if newly:
        alert_of_rejected(settings, smtp, run["run_id"], Outcome(rejected=newly))
    return outcome.to_json()


def archive_files(run: Run, spark_run_id: str | None) -> dict[str, Any]:
    """Move what is done out of the source, also what an earlier run left there."""
    settings = settings_of(run)
    buckets = S3Storage()
    details: dict[str, Mapping[str, Any]] = {}
    if spark_run_id is not None:
        result = run_outcome.read_result(buckets, settings, spark_run_id)
        details = {file["name"]: file for file in (result or {}).get("files", [])}
    moved = move_done(buckets, _ledger(settings), settings, list_source(buckets, settings), details=details)
    return moved.to_json()


def clean_up(run: Run) -> int:
    """Delete the run's intermediate files, and those of runs that died long ago."""
    return archiving.clean_up(S3Storage(), settings_of(run), run["folder"])


def mark_failed(
    settings: PipelineSettings,
    run_id: str,
    failures: Mapping[str, str],
    job: Mapping[str, Any] | None,
    smtp: SmtpServer | None,
) -> dict[str, Any]:
    """Give the claims of a failed run back and send the alert.

    Args:
        settings: the run's.
        run_id: Airflow's id of the run.
        failures: what each failed task failed of.
        job: of the Spark job, `job_id`, `spark_run_id`, `log`, `exit_code`, as far as they are known.
        smtp: for the alert.
    """
    failures, job = _with_reason_of_job(settings, run_id, failures, job or {})
    reason = "; ".join(f"{task}: {message}" for task, message in failures.items()) or "unknown"
    outcome, error = Outcome(), ""
    try:
        outcome = _give_back(settings, run_id, reason, JOB_TASK in failures, job)
    except Exception as failure:
        error = f"The claims could not be given back: {failure}. The next run gives them up."
        raise
    finally:
        send_alert(settings, smtp, failure_alert(run_id, failures, outcome, job, error))
    return outcome.to_json()


def _with_reason_of_job(
    settings: PipelineSettings, run_id: str, failures: Mapping[str, str], job: Mapping[str, Any]
) -> tuple[dict[str, str], dict[str, Any]]:
    """Ask EMR and the application themselves where the task could not tell (it was killed, or its trigger failed)."""
    told = {task: message or "see the task's log" for task, message in failures.items()}
    if failures.get(JOB_TASK, "-") or not job.get("job_id"):
        return told, dict(job)
    try:
        found = get_job(new_client("emr-serverless"), settings.emr_application_id, job["job_id"])
        result = run_outcome.read_result(S3Storage(), settings, job["spark_run_id"])
    except PipelineError as error:
        warn("EMR could not be asked", run_id=run_id, reason=str(error))
        return told, dict(job)
    failure = failure_of(found, result, settings)
    return {**told, JOB_TASK: str(failure)}, {**job, "exit_code": failure.exit_code_of_job}


def _give_back(settings: PipelineSettings, run_id: str, reason: str, of_job: bool, job: Mapping[str, Any]) -> Outcome:
    buckets, ledger = S3Storage(), _ledger(settings)
    data = buckets.read(f"{run_folder(settings, run_id)}/manifest.json")
    if data is None:
        return Outcome()  # it failed before it claimed anything
    files = read_manifest(buckets, f"{run_folder(settings, run_id)}/manifest.json")["files"]
    result = None
    if job.get("spark_run_id"):
        result = run_outcome.read_result(buckets, settings, job["spark_run_id"])
    counts = of_job and job.get("exit_code") != SETTINGS_EXIT_CODE
    count_after = settings.max_attempts if counts else None
    outcome = run_outcome.mark_failed(ledger, run_id, files, result, reason, count_after)
    details = {file["name"]: file for file in (result or {}).get("files", [])}
    if outcome.rejected:
        move_done(buckets, ledger, settings, list_source(buckets, settings), frozenset({REJECTED}), details)
    return outcome


# --- alerts ---


def failure_alert(
    run_id: str, failures: Mapping[str, str], outcome: Outcome, job: Mapping[str, Any], error: str = ""
) -> Alert:
    """Return the alert of a failed run: which task, why, which files, where the log is."""
    lines = [f"Run {run_id} of music_streaming_pipeline has failed.", ""]
    lines += [f"{task}: {message}" for task, message in failures.items()] or ["No task told why; see its log."]
    if job.get("log"):
        lines += ["", f"Log of the Spark job {job.get('job_id')}: {job['log']}"]
    lines += _listed("Set aside or rejected, not tried again until replaced or released", outcome.rejected)
    lines += _listed("Left in place, the next run takes them again", dict.fromkeys(outcome.failed, ""))
    lines += [""] * bool(error) + [error] * bool(error)
    lines += ["", "What to do is told in the DAG's documentation. Running it again is safe."]
    return Alert(f"music_streaming_pipeline failed: {', '.join(failures) or run_id}", "\n".join(lines))


def alert_of_rejected(settings: PipelineSettings, smtp: SmtpServer | None, run_id: str, outcome: Outcome) -> None:
    """Tell of rejected files."""
    count = len(outcome.rejected)
    lines = [f"Run {run_id} of music_streaming_pipeline has rejected {count} of its files."]
    lines += _listed("Rejected, not tried again until replaced or released", outcome.rejected)
    lines += ["", f"They are moved to s3://{settings.archive_bucket}/{settings.rejected_prefix}/ with their reasons."]
    subject = f"music_streaming_pipeline rejected {count} file{'s' if count != 1 else ''}"
    send_alert(settings, smtp, Alert(subject, "\n".join(lines)))


def _listed(title: str, reasons: Mapping[str, str]) -> list[str]:
    if not reasons:
        return []
    shown = [f"  {name}: {reason}" if reason else f"  {name}" for name, reason in list(reasons.items())[:FILES_TOLD]]
    more = [f"  and {len(reasons) - FILES_TOLD} more"] if len(reasons) > FILES_TOLD else []
    return ["", f"{title}:", *shown, *more]


# --- what the steps share ---


def settings_of(run: Run) -> PipelineSettings:
    """Return the settings that claim_files read: the same for the whole run."""
    return PipelineSettings(**run["settings"])


def _claimed_now(settings: PipelineSettings, run: Run, files: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the files of the manifest that this run has claimed; the others are reference data known before."""
    entries = _ledger(settings).read(file["name"] for file in files)
    return [file for file in files if file["name"] in entries and entries[file["name"]].run_id == run["run_id"]]


def _delivery_settings(settings: PipelineSettings) -> DeliverySettings:
    return load_settings(prefix=settings.table_prefix or None, max_write_rate=settings.max_write_rate or None)


def _ledger(settings: PipelineSettings) -> ClaimLedger:
    return ClaimLedger(_delivery_settings(settings))


def _delivery(settings: PipelineSettings, run: Run, export: Export) -> Delivery:
    holder = f"airflow:{safe_name(run['run_id'])}"
    return Delivery(open_lake(settings.lake), export, _delivery_settings(settings), holder=holder)


def _take_lease(delivery: Delivery, settings: PipelineSettings) -> None:
    with plain_aws_errors("DynamoDB"):
        delivery.lease.acquire(adopt_lake=settings.adopt_lake)
