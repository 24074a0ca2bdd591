"""A real Prometheus that reads text files as the node exporter gives them, and what dashboard and rules say on it."""

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
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.dynamodb_local import free_port
from tools.grafana import PANELS
from tools.toolchain import ROOT

RULES = ROOT / "conf" / "prometheus" / "music_streaming_kpis.rules.yml"
PATIENCE_S = 60
SLACK_S = 600  # between the end of a run and the look at it, on a busy machine
Sample = dict[frozenset[tuple[str, str]], Any]
needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="no prometheus on this machine (Debian: apt-get install prometheus)",
)


def panels_and_alerts(texts: Path, folder: Path) -> tuple[dict[str, Sample], set[str]]:
    """What each panel shows, and which alerts fire, once Prometheus has read the files in `texts`."""
    with _prometheus(texts, folder) as query:
        shown = {panel.title: query(panel.query.replace("$lake", ".*")) for panel in PANELS}
        return shown, {rule["alert"] for rule in alert_rules() if query(rule["expr"])}


def expected_panels(
    result: Mapping[str, Any], receipt: Mapping[str, Any], complete: str, lake_uri: str, billed: Mapping[str, float]
) -> dict[str, Sample]:
    """What each panel has to show, straight from result.json, the receipt and what EMR bills."""
    streams, cost = result["totals_by_dataset"]["streams"], result["cost"]
    outcomes = ("valid", "duplicates", "quarantined", "waiting")
    tables = receipt["tables"]
    age = time.time() - datetime.fromisoformat(complete).timestamp()
    lake = {"lake": lake_uri}
    hours = {"estimated": (cost["vcpu_hours"], cost["gb_hours"])}
    hours |= {"billed": (billed["vCPUHour"], billed["memoryGBHour"])} if billed else {}
    good = sum(c["valid"] + c["duplicates"] for c in result["totals_by_dataset"].values())
    read = sum(q["rows"] for q in result["quality"].values())
    score = round(100 * good / read, 2)
    return {
        "Last run succeeded": _one(1, **lake),
        "Since the last success": _one(pytest.approx(0, abs=SLACK_S), **lake),
        "Age of the newest file in KPIs": _one(pytest.approx(age, abs=SLACK_S), **lake),
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
        "vCPU hours": {_labels(source=source): vcpu for source, (vcpu, _) in hours.items()},
        "Memory, GB hours": {_labels(source=source): memory for source, (_, memory) in hours.items()},
    }


def _one(value: Any, **labels: str) -> dict[frozenset[tuple[str, str]], Any]:
    return {_labels(**labels): value}


def _labels(**labels: str) -> frozenset[tuple[str, str]]:
    return frozenset(labels.items())


def alert_rules() -> list[dict[str, str]]:
    """The rules that alert, as they stand in conf/."""
    rules = yaml.safe_load(RULES.read_text("utf-8"))["groups"][0]["rules"]
    return [rule for rule in rules if "alert" in rule]


@contextmanager
def _prometheus(texts: Path, folder: Path) -> Iterator[Callable[[str], Sample]]:
    """Run a Prometheus that reads these text files, and yield what asks it."""

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
