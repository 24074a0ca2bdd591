"""Which alerts are due because something has not happened: no run succeeded, or one doesn't end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from kpi_pipeline.alerts import messages
from kpi_pipeline.alerts.messages import Alert
from kpi_pipeline.settings import AlertSettings

AGAIN_S = 24 * 3600


def overdue(
    settings: AlertSettings,
    events: Sequence[tuple[datetime, Mapping[str, Any]]],
    now: datetime,
    looked: datetime | None,
) -> list[Alert]:
    """Return the alerts that have become due since it was looked last; what stays overdue is due again each day.

    Args:
        settings: the limits.
        events: of runs, the oldest first: when, and `event` (begun, succeeded, failed) with the `run_id`.
        now: the time.
        looked: when this was asked last; None: never.
    """
    if not events:
        return []  # the pipeline has never been started
    found = []
    since = next((when for when, extra in reversed(events) if extra.get("event") == "succeeded"), events[0][0])
    if _is_due(since + timedelta(hours=settings.alert_success_hours), since, now, looked):
        found.append(messages.no_success((now - since).total_seconds() / 3600, settings.alert_success_hours))
    since, last = events[-1]
    limit = since + timedelta(minutes=settings.alert_late_minutes)
    if last.get("event") == "begun" and _is_due(limit, since, now, looked):
        minutes = (now - since).total_seconds() / 60
        found.append(messages.late(str(last["run_id"]), minutes, settings.alert_late_minutes))
    return found


def _is_due(limit: datetime, since: datetime, now: datetime, looked: datetime | None) -> bool:
    """Whether the limit, or a whole day beyond it, lies between the two looks; a limit of no time is none."""
    if limit == since or now < limit:
        return False
    # In seconds: Airflow's own instants are of a kind whose differences can't be divided.
    return looked is None or looked < limit or _days(now, limit) > _days(looked, limit)


def _days(later: datetime, earlier: datetime) -> int:
    return int((later - earlier).total_seconds() // AGAIN_S)
