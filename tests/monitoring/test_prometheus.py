"""Dashboard and alert rules on a real Prometheus, which reads the figures of a real run; rules by promtool."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from pyspark.sql import SparkSession

from kpi_common.files import open_lake
from kpi_pipeline.cli import main as pipeline
from kpi_pipeline.export.reader import read_export, read_receipt
from kpi_pipeline.monitoring.figures import Figure, delivery_figures, job_figures, run_figures
from kpi_pipeline.monitoring.sinks import to_prometheus
from kpi_pipeline.settings import load_pipeline_settings
from spark_app.cli import main as application
from tools.dynamodb_local import free_port
from tools.grafana import PANELS, PATH, dashboard
from tools.toolchain import ROOT

RULES = ROOT / "conf" / "prometheus" / "music_streaming_kpis.rules.yml"
NEEDED = {"bucket_name": "b-1", "emr_application_id": "a", "execution_role_arn": "arn:aws:iam::123456789012:role/x"}
BILLED = {"vCPUHour": 1.5, "memoryGBHour": 6.25, "storageGBHour": 0.0}
PATIENCE_S = 60
Sample = dict[frozenset[tuple[str, str]], float]
needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="no prometheus on this machine (Debian: apt-get install prometheus)",
)


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
    assert not [rule["alert"] for rule in _alerts() if f"alertname: {rule['alert']}" not in tested]


@needs_prometheus
@pytest.mark.long
@pytest.mark.integration
@pytest.mark.usefixtures("dynamodb")
def test_queries_return_what_the_result_of_a_run_says(spark: SparkSession, table_prefix: str, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    _write_input(tmp_path / "input")
    assert application(["run", "--input", str(tmp_path / "input"), "--lake", str(lake)], spark=spark) == 0
    assert pipeline(["deliver", "--lake", str(lake), "--table-prefix", table_prefix]) == 0
    (path,) = lake.glob("runs/*/result.json")
    result = json.loads(path.read_text("utf-8"))
    receipt = read_receipt(open_lake(str(lake)), result["run_id"])
    _check_queries(result, receipt, read_export(open_lake(str(lake)), result["run_id"]).complete_through, tmp_path)


@needs_prometheus
@pytest.mark.sample
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
    _check_queries(result, receipt, "2024-06-25T10:00:00Z", tmp_path)


def _check_queries(result: Mapping[str, Any], receipt: Mapping[str, Any], complete: str | None, folder: Path) -> None:
    figures = [
        *run_figures(datetime.now(UTC), succeeded=True),
        *job_figures(result, BILLED),
        *delivery_figures(receipt, complete),
    ]
    with _prometheus(figures, folder) as query:
        found = {panel.title: query(panel.query.replace("$lake", ".*")) for panel in PANELS}
        assert found == _expected(result, receipt, complete)
        firing = {rule["alert"] for rule in _alerts() if query(rule["expr"])}
    assert firing == {"MusicKpisFilesRejected", "MusicKpisQualityLow"}


def _expected(result: Mapping[str, Any], receipt: Mapping[str, Any], complete: str | None) -> dict[str, Any]:
    """What each panel shows, straight from result.json and the receipt."""
    streams, cost = result["totals_by_dataset"]["streams"], result["cost"]
    outcomes = ("valid", "duplicates", "quarantined", "waiting")
    tables = receipt["tables"]
    assert complete is not None
    age = time.time() - datetime.fromisoformat(complete).timestamp()
    lake = {"lake": "s3://b-1/lake"}
    assert (streams["quarantined"], streams["waiting"], streams["duplicates"]) == (1, 2, 1)
    good = sum(c["valid"] + c["duplicates"] for c in result["totals_by_dataset"].values())
    read = sum(q["rows"] for q in result["quality"].values())
    score = round(100 * good / read, 2)
    return {
        "Last run succeeded": _one(1, **lake),
        "Since the last success": _one(pytest.approx(0, abs=PATIENCE_S), **lake),
        "Age of the newest file in KPIs": _one(pytest.approx(age, abs=PATIENCE_S), **lake),
        "Quality score, of 100 rows": _one(score, **lake),
        "Rows": {
            _labels(dataset=dataset, outcome=outcome): counts[outcome]
            for dataset, counts in result["totals_by_dataset"].items()
            for outcome in outcomes
        },
        "Quarantined and waiting listens": {
            _labels(outcome=outcome): pytest.approx(streams[outcome] / streams["rows"])
            for outcome in ("quarantined", "waiting")
        },
        "Files": {_labels(outcome=outcome): count for outcome, count in result["totals"]["files"].items()},
        "Steps of the job": {_labels(step=step["name"]): step["seconds"] for step in result["steps"]},
        "Job and delivery": {
            _labels(__name__="music_kpis_job_seconds", **lake): result["seconds"],
            _labels(__name__="music_kpis_delivery_seconds", **lake): receipt["seconds"],
        },
        "Dates computed": _one(len(result["dirty_dates"]), **lake),
        "Items in DynamoDB": {
            _labels(outcome=outcome): sum(counts[outcome] for counts in tables.values())
            for outcome in ("put", "deleted", "unchanged")
        },
        "Throttled requests": {_labels(table=table): counts["retries"] for table, counts in tables.items()},
        "Items that DynamoDB can't hold": _one(0, **lake),
        "Cost of the job": _one(cost["usd"], **lake),
        "vCPU hours": {_labels(source="estimated"): cost["vcpu_hours"], _labels(source="billed"): 1.5},
        "Memory, GB hours": {_labels(source="estimated"): cost["gb_hours"], _labels(source="billed"): 6.25},
    }


def _one(value: Any, **labels: str) -> dict[frozenset[tuple[str, str]], Any]:
    return {_labels(**labels): value}


def _labels(**labels: str) -> frozenset[tuple[str, str]]:
    return frozenset(labels.items())


def _alerts() -> list[dict[str, str]]:
    rules = yaml.safe_load(RULES.read_text("utf-8"))["groups"][0]["rules"]
    return [rule for rule in rules if "alert" in rule]


def _write_input(folder: Path) -> None:
    """A good file with each fate of a row, and one that is rejected."""
    songs = "track_id,artists,track_name,duration_ms,track_genre\nt1,a,One,1000,pop\nt2,b,Two,2000,rock\n"
    good = [f"{user},t{1 + user % 2},2024-06-25 10:{user:02d}:00" for user in range(30)]
    good += [good[0], "x,t1,2024-06-25 10:00:00", "1,t9,2024-06-25 11:00:00", "2,t9,2024-06-25 11:00:00"]
    files = {
        "songs/songs.csv": songs,
        "users/users.csv": "user_id,user_age,user_country\n1,20,NO\n",
        "streams/good.csv": "\n".join(["user_id,track_id,listen_time", *good, ""]),
        "streams/bad.csv": "\n".join(["user_id,track_id,listen_time", *["?,?,never"] * 6, ""]),
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")


@contextmanager
def _prometheus(figures: list[Figure], folder: Path) -> Iterator[Callable[[str], Sample]]:
    """Run a Prometheus that reads the text files of these figures, and yield what asks it."""
    texts = folder / "textfiles"
    texts.mkdir()
    to_prometheus(load_pipeline_settings({**NEEDED, "metrics_textfile_dir": str(texts)}.get), figures)

    class NodeExporter(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"".join(path.read_bytes() for path in sorted(texts.glob("*.prom")))
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    exporter = ThreadingHTTPServer(("127.0.0.1", 0), NodeExporter)
    threading.Thread(target=exporter.serve_forever, daemon=True).start()
    target = {"targets": [f"127.0.0.1:{exporter.server_port}"]}
    scrape = {"job_name": "node", "scrape_interval": "1s", "static_configs": [target]}
    config = {"global": {"evaluation_interval": "1s"}, "rule_files": [str(RULES)], "scrape_configs": [scrape]}
    (folder / "prometheus.yml").write_text(json.dumps(config))
    address = f"127.0.0.1:{free_port()}"
    options = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb"]
    with (folder / "prometheus.log").open("wb") as log:
        command = ["prometheus", *options, f"--web.listen-address={address}"]
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not _has_read(address):
            assert server.poll() is None, (folder / "prometheus.log").read_text()
            assert time.monotonic() < deadline, "Prometheus has read nothing"
            time.sleep(0.2)
        yield lambda expression: _ask(address, expression)
    finally:
        server.terminate()
        server.wait()
        exporter.shutdown()
        exporter.server_close()


def _has_read(address: str) -> bool:
    try:
        return bool(_ask(address, "music_kpis:share") and _ask(address, "music_kpis_undeliverable_items"))
    except OSError:
        return False


def _ask(address: str, expression: str) -> Sample:
    """Return the samples of a query by their labels, without those that say where Prometheus read them."""
    text = urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen(f"http://{address}/api/v1/query?{text}", timeout=10) as answer:
        samples = json.load(answer)["data"]["result"]
    named = {"instance", "job"} | (set() if "__name__" in expression else {"__name__"})
    return {
        frozenset((name, value) for name, value in sample["metric"].items() if name not in named): float(
            sample["value"][1]
        )
        for sample in samples
    }
