"""Alerts: what happened, to which file, why, and what to do. Texts of others do no harm to a reader."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from kpi_common.log import printable
from kpi_pipeline.emr.request import PIPELINE
from kpi_pipeline.files.outcome import FileOutcomes
from kpi_pipeline.settings import PipelineSettings

SHOWN = 20  # files, items, problems
MAX_SUBJECT = 100  # what SNS takes
MAX_LINE = 1000
NO_REASON = "No failure message recorded; see the task log"


Severity = Literal["critical", "error", "warning"]


@dataclass(frozen=True)
class Alert:
    """One message; the subject is one line, the text has no control or bidi characters but line ends.

    Alerts of one kind are one trouble: a channel that counts troubles counts them once while they last.
    """

    kind: str
    severity: Severity
    subject: str
    text: str
    run_id: str = ""
    dag_id: str = PIPELINE


def alert(
    kind: str, severity: Severity, subject: str, lines: Iterable[str], run_id: str = "", dag_id: str = PIPELINE
) -> Alert:
    """Return an alert of lines that may hold names of files and words of others."""
    subject = printable(subject)
    subject = subject if len(subject) <= MAX_SUBJECT else f"{subject[: MAX_SUBJECT - 3]}..."
    text = "\n".join(printable(line)[:MAX_LINE] for line in lines)
    return Alert(kind, severity, subject, text, run_id, dag_id)


def run_failed(
    run_id: str, failures: Mapping[str, str], outcomes: FileOutcomes, job: Mapping[str, Any], problem: str = ""
) -> Alert:
    """Return the alert of a failed run: which task, why, which files, where the log is.

    Args:
        run_id: Airflow's.
        failures: the reason of each failed task, "" where it could not be recorded.
        outcomes: of its files.
        job: `job_id` and `log` of the Spark job, if there was one.
        problem: what else went wrong when claims were given back.
    """
    lines = [f"Run {run_id} of {PIPELINE} has failed.", ""]
    lines += [f"{task}: {reason or NO_REASON}" for task, reason in failures.items()] or [NO_REASON]
    if job.get("log"):
        lines += ["", f"Log of the Spark job {job.get('job_id')}: {job['log']}"]
    lines += _listed("Set aside or rejected, not tried again until replaced or released", outcomes.rejected)
    lines += _listed("Left in place, the next run takes them again", dict.fromkeys(outcomes.failed, ""))
    lines += [problem] if problem else []
    lines += ["", "What to do is in the DAG's documentation. Running it again is safe."]
    subject = f"{PIPELINE} failed: {', '.join(failures) or run_id}"
    return alert("run_failed", "critical", subject, lines, run_id)


def files_not_taken(settings: PipelineSettings, run_id: str, outcomes: FileOutcomes) -> Alert | None:
    """Return the alert of a run that rejected files, or whose job said nothing of some."""
    count = len(outcomes.rejected)
    if not count and not outcomes.failed:
        return None
    not_taken = f"did not take in {_count(len(outcomes.failed), 'file')}"
    lines = [f"Run {run_id} of {PIPELINE} " + (f"has rejected {count} of its files." if count else f"{not_taken}.")]
    lines += _listed("Rejected, not tried again until replaced or released", outcomes.rejected)
    if count:
        lines += ["", f"They are moved to {settings.rejected}/ with their reasons."]
    lines += _listed("Not taken in, the next run takes them again", outcomes.failed)
    subject = f"{PIPELINE} " + (f"rejected {_count(count, 'file')}" if count else not_taken)
    return alert("files_not_taken", "warning", subject, lines, run_id)


def files_not_archived(run_id: str, problems: Mapping[str, str]) -> Alert | None:
    """Return the alert of files that are done but can't leave the source."""
    if not problems:
        return None
    lines = [f"Run {run_id} of {PIPELINE} left files in the source that are done. They are not taken again."]
    subject = f"{PIPELINE} can't archive {_count(len(problems), 'file')}"
    return alert("files_not_archived", "warning", subject, lines + _listed("Left", problems), run_id)


def items_not_delivered(run_id: str, undeliverable: Iterable[Mapping[str, Any]]) -> Alert | None:
    """Return the alert of items that DynamoDB can't hold; the days are complete without them."""
    items = {
        f"{item['table']} {', '.join(str(v) for part in item['key'].values() for v in part.values())[:200]}": (
            f"{item['reason']}, {item['bytes']} bytes"
        )
        for item in undeliverable
    }
    if not items:
        return None
    what = f"could not deliver {_count(len(items), 'item')}"
    lines = [f"Run {run_id} of {PIPELINE} {what} to DynamoDB. The KPIs are in the lake; correct the names in songs."]
    return alert("items_not_delivered", "error", f"{PIPELINE} {what}", lines + _listed("Missing", items), run_id)


def exports_broken(run_id: str, problems: Iterable[str]) -> Alert | None:
    """Return the alert of exports that can't be read and were left out."""
    found = dict.fromkeys(problems, "")
    if not found:
        return None
    lines = [
        f"Run {run_id} of {PIPELINE} found exports that can't be read. Delete their folders: newer ones replace them."
    ]
    subject = f"{PIPELINE} left out {_count(len(found), 'export')}"
    return alert("exports_broken", "error", subject, lines + _listed("Left out", found), run_id)


def unusual_run(run_id: str, problems: Iterable[str]) -> Alert | None:
    """Return the alert of a run whose figures are too bad, or not what they usually are."""
    found = list(problems)
    if not found:
        return None
    lines = [f"Run {run_id} of {PIPELINE} has succeeded, but its figures are unusual.", "", *found, ""]
    lines += ["Look at `files` and `quality` in the run's result.json, and at the lake's quarantine/records; reasons"]
    lines += ["and what to do: docs/runbook.md. Songs that come late explain waiting rows by themselves."]
    return alert("unusual_run", "warning", f"{PIPELINE} has unusual figures", lines, run_id)


def no_success(hours: float, limit: float) -> Alert:
    """Return the alert of a pipeline that has not succeeded for so many hours."""
    lines = [f"No run of {PIPELINE} has succeeded for {hours:.0f} hours; expected is one within {limit:g} hours.", ""]
    lines += ["Is the DAG paused, its schedule off, or a run stuck? What failed runs failed of is in their alerts."]
    return alert("no_success", "critical", f"{PIPELINE}: no success for {hours:.0f} hours", lines)


def late(run_id: str, minutes: float, limit: float) -> Alert:
    """Return the alert of a run that takes longer than it should."""
    lines = [f"Run {run_id} of {PIPELINE} has been going for {minutes:.0f} minutes; expected are {limit:g}.", ""]
    lines += ["See which task is running; the job's dashboard is linked at run_spark_app. Nothing is lost by waiting."]
    return alert("late", "error", f"{PIPELINE} is late", lines, run_id)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _listed(title: str, reasons: Mapping[str, str]) -> list[str]:
    if not reasons:
        return []
    shown = [f"  {name}: {reason}" if reason else f"  {name}" for name, reason in list(reasons.items())[:SHOWN]]
    more = [f"  and {len(reasons) - SHOWN} more"] if len(reasons) > SHOWN else []
    return ["", f"{title}:", *shown, *more]
