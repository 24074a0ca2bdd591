"""Dashboard and alert rules on a real Prometheus; rules by promtool. On a real run: tests/e2e."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from kpi_pipeline.monitoring.figures import delivery_figures, job_figures, run_figures
from kpi_pipeline.monitoring.sinks import to_prometheus
from kpi_pipeline.settings import load_pipeline_settings
from tests.support.prometheus import RULES, alert_rules, expected_panels, needs_prometheus, panels_and_alerts
from tools.grafana import PATH, dashboard

NEEDED = {"bucket_name": "b-1", "emr_application_id": "a", "execution_role_arn": "arn:aws:iam::123456789012:role/x"}
BILLED = {"vCPUHour": 1.5, "memoryGBHour": 6.25, "storageGBHour": 0.0}


def test_the_dashboard_is_what_its_program_writes() -> None:
    assert PATH.read_text("utf-8") == dashboard(), "run: python -m tools.grafana"


@needs_prometheus
def test_rules_by_promtool(tmp_path: Path) -> None:
    shutil.copy(RULES, tmp_path)
    shutil.copy(Path(__file__).with_name("rules_test.yml"), tmp_path)
    command = ["promtool", "test", "rules", "rules_test.yml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    tested = (tmp_path / "rules_test.yml").read_text("utf-8")
    assert not [rule["alert"] for rule in alert_rules() if f"alertname: {rule['alert']}" not in tested]


@needs_prometheus
def test_queries_return_what_a_result_says(tmp_path: Path) -> None:
    streams = {"valid": 32, "duplicates": 1, "quarantined": 1, "waiting": 2, "rows": 34}
    songs = {"valid": 2, "duplicates": 0, "quarantined": 0, "waiting": 0, "rows": 2}
    result = {
        "totals": {"files": {"accepted": 2, "rejected": 1}, **streams},
        "totals_by_dataset": {"streams": streams, "songs": songs},
        "quality": {"streams": {"rows": 40}, "songs": {"rows": 2}},
        "dirty_dates": ["2024-06-25"],
        "seconds": 12.5,
        "steps": [{"name": "validate", "seconds": 1.5}, {"name": "stage", "seconds": 2.25}],
        "cost": {"usd": 0.01, "vcpu_hours": 0.5, "gb_hours": 2.0},
    }
    table = {"put": 3, "deleted": 1, "unchanged": 4, "requests": 2, "retries": 1}
    receipt = {"tables": {"DailyGenreKPIs": table, "HourlyKPIs": table}, "undeliverable": [], "seconds": 0.5}
    complete = "2024-06-25T10:00:00Z"
    figures = [*run_figures(datetime.now(UTC), succeeded=True), *job_figures(result, BILLED)]
    texts = tmp_path / "textfiles"
    texts.mkdir()
    settings = load_pipeline_settings({**NEEDED, "metrics_textfile_dir": str(texts)}.get)
    to_prometheus(settings, [*figures, *delivery_figures(receipt, complete)])
    shown, firing = panels_and_alerts(texts, tmp_path)
    assert shown == expected_panels(result, receipt, complete, "s3://b-1/lake", BILLED)
    assert firing == {"MusicKpisFilesRejected", "MusicKpisQualityLow"}
