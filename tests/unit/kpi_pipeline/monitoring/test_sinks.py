"""Figures as CloudWatch Logs and Prometheus's push gateway take them: real servers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import jsonschema
import pytest
from prometheus_client.parser import text_string_to_metric_families

from kpi_pipeline.monitoring.figures import HELP, Figure
from kpi_pipeline.monitoring.sinks import to_cloudwatch, to_prometheus
from kpi_pipeline.settings import PipelineSettings, load_pipeline_settings
from tests.support.moto_server import moto_server
from tools.dynamodb_local import CREDENTIALS

FIGURES = [
    Figure("run", "run_succeeded", 1),
    Figure("job", "rows", 12, {"dataset": "streams", "outcome": "valid"}),
    Figure("job", "rows", 3, {"dataset": "streams", "outcome": "quarantined"}),
    Figure("job", "step_seconds", 1.5, {"step": "stage"}),
    Figure("job", "job_seconds", 9.25),
]
# From AWS's "Specification: Embedded metric format".
EMF = {
    "type": "object",
    "required": ["_aws"],
    "properties": {
        "_aws": {
            "type": "object",
            "required": ["Timestamp", "CloudWatchMetrics"],
            "properties": {
                "Timestamp": {"type": "integer", "minimum": 10**12},
                "CloudWatchMetrics": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["Namespace", "Dimensions", "Metrics"],
                        "properties": {
                            "Namespace": {"type": "string", "minLength": 1, "maxLength": 1024},
                            "Dimensions": {
                                "type": "array",
                                "minItems": 1,
                                "items": {"type": "array", "maxItems": 30, "items": {"type": "string"}},
                            },
                            "Metrics": {
                                "type": "array",
                                "maxItems": 100,
                                "items": {
                                    "type": "object",
                                    "required": ["Name"],
                                    "properties": {"Unit": {"enum": ["Seconds", "Count", "None"]}},
                                },
                            },
                        },
                    },
                },
            },
        }
    },
}


def settings(**given: Any) -> PipelineSettings:
    role = "arn:aws:iam::123456789012:role/x"
    return load_pipeline_settings(
        {"bucket_name": "b-1", "emr_application_id": "a", "execution_role_arn": role, **given}.get
    )


@pytest.fixture(scope="module")
def aws() -> Iterator[str]:
    with moto_server() as address:
        yield address


def test_cloudwatch_gets_embedded_metrics_with_their_values(aws: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"AWS_ENDPOINT_URL": aws, "AWS_REGION": CREDENTIALS["region_name"]}
    values |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    for _ in range(2):  # the task is tried again
        to_cloudwatch(settings(metrics_log_group="/kpis"), "manual__2024-06-25T00:00:00+00:00", FIGURES)
    logs = boto3.client("logs", endpoint_url=aws, **CREDENTIALS)
    (stream,) = logs.describe_log_streams(logGroupName="/kpis")["logStreams"]
    events = logs.get_log_events(logGroupName="/kpis", logStreamName=stream["logStreamName"])["events"]
    documents = [json.loads(event["message"]) for event in events]
    found = set()
    for document in documents:
        jsonschema.validate(document, EMF)
        (about,) = document["_aws"]["CloudWatchMetrics"]
        (dimensions,) = about["Dimensions"]
        labels = {name: document[name] for name in dimensions if name != "lake"}
        assert document["lake"] == "s3://b-1/lake"
        for metric in about["Metrics"]:
            found.add((metric["Name"], metric["Unit"], document[metric["Name"]], tuple(sorted(labels.items()))))
    assert found == {(f.name, f.unit, f.value, tuple(sorted(f.labels.items()))) for f in FIGURES}
    assert {"job_seconds": "Seconds", "rows": "None"}.items() <= {(name, unit) for name, unit, *_ in found}


def test_a_push_gateway_gets_all_figures() -> None:
    pushed: list[tuple[str, str, str]] = []

    class Gateway(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            pushed.append((self.path, self.headers["Content-Type"], body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Gateway)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    to_prometheus(settings(metrics_pushgateway=f"http://127.0.0.1:{server.server_port}"), FIGURES)
    server.shutdown()
    server.server_close()
    ((path, kind, body),) = pushed
    assert path == "/metrics/job/music_streaming_pipeline"
    assert kind.startswith("text/plain")
    families = list(text_string_to_metric_families(body))
    samples = {(sample.name, sample.value) for family in families for sample in family.samples}
    assert samples == {(f"music_kpis_{figure.name}", figure.value) for figure in FIGURES}
    assert all(family.documentation for family in families)


def test_figures_of_what_a_run_did_not_do_stay_as_they_were(tmp_path: Path) -> None:
    into = settings(metrics_textfile_dir=str(tmp_path))
    to_prometheus(into, FIGURES)
    to_prometheus(into, [Figure("run", "run_succeeded", 0)])
    assert "music_kpis_run_succeeded{" in (tmp_path / "music_kpis_run.prom").read_text()
    assert 'music_kpis_job_seconds{lake="s3://b-1/lake"} 9.25' in (tmp_path / "music_kpis_job.prom").read_text()
    assert len(list(tmp_path.iterdir())) == 2, "no half-written file is left for the node exporter"


def test_nothing_is_written_unless_a_setting_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    to_cloudwatch(settings(), "r", FIGURES)
    to_prometheus(settings(), FIGURES)
    assert list(tmp_path.iterdir()) == []


def test_every_figure_has_an_explanation() -> None:
    assert all(text[0].isupper() for text in HELP.values())
