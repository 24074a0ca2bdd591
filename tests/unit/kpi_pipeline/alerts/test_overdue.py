"""When an alert of something that did not happen is due."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kpi_pipeline.alerts.overdue import overdue
from kpi_pipeline.settings import AlertSettings

START = datetime(2026, 1, 1, tzinfo=UTC)
SETTINGS = AlertSettings(alert_late_minutes=90)


def at(hours: float) -> datetime:
    return START + timedelta(hours=hours)


def kinds(events: list[tuple[float, str]], now: float, looked: float | None, settings: AlertSettings = SETTINGS) -> Any:
    found = [(at(hours), {"event": event, "run_id": "r"}) for hours, event in events]
    alerts = overdue(settings, found, at(now), None if looked is None else at(looked))
    return [alert.kind for alert in alerts]


def test_never_started_is_not_overdue() -> None:
    assert kinds([], 1000, None) == []


@pytest.mark.parametrize(
    ("now", "looked", "due"),
    [
        (25.9, 24.9, []),
        (26.0, 25.9, ["no_success"]),
        (27.0, 26.0, []),
        (50.1, 49.1, ["no_success"]),  # a day later again
        (60.0, 49.1, ["no_success"]),  # the look in between was missed
        (1000, None, ["no_success"]),
    ],
)
def test_no_success_for_25_hours(now: float, looked: float | None, due: list[str]) -> None:
    assert kinds([(0, "begun"), (1, "succeeded"), (24, "begun"), (24.5, "failed")], now, looked) == due


def test_a_pipeline_that_never_succeeded_counts_from_its_first_run() -> None:
    assert kinds([(0, "begun"), (0.5, "failed"), (24, "begun"), (24.1, "failed")], 25.5, 24.5) == ["no_success"]


def test_a_run_that_does_not_end_is_late_once() -> None:
    events = [(0, "begun"), (0.5, "succeeded"), (10, "begun")]
    assert kinds(events, 11.4, 10.4) == []
    assert kinds(events, 11.6, 10.6) == ["late"]
    assert kinds(events, 12.6, 11.6) == []
    assert kinds([*events, (11.55, "succeeded")], 11.6, 10.6) == []


def test_limits_can_be_off() -> None:
    off = AlertSettings(alert_success_hours=0, alert_late_minutes=0)
    assert kinds([(0, "begun")], 1000, None, off) == []


def test_texts_say_how_long_and_what_to_do() -> None:
    (alert,) = overdue(SETTINGS, [(START, {"event": "succeeded"})], at(30), None)
    assert alert.severity == "critical"
    assert "succeeded for 30 hours; expected is one within 25 hours" in alert.text
    assert "paused" in alert.text
