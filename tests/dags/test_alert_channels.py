"""Each channel's notifier, received by a real server that checks what the service documents."""

import json
import re
import ssl
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "dags"))

import alert_channels
import dag_support

from kpi_common.errors import AppError
from kpi_pipeline.alerts.messages import alert, files_not_taken, run_failed
from kpi_pipeline.errors import JobFailedError
from kpi_pipeline.files.outcome import FileOutcomes
from kpi_pipeline.settings import AlertSettings, load_pipeline_settings

HOSTILE = "streams/<!channel> <https://evil.example|click> *bold* `x`\r\n\x1b[31m\u202e<b>&.csv"
SLACK_PATH = "/services/T0/B0/secret"
PAGERDUTY_KEY = "k" * 32


class Sink(BaseHTTPRequestHandler):
    """Takes what Slack's webhooks and PagerDuty's Events API v2 take, and refuses all else as they do."""

    received: list[tuple[str, dict[str, Any]]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.headers["Content-Type"].split(";")[0] == "application/json"
        problem = {SLACK_PATH: slack_problem, "/v2/enqueue": pagerduty_problem}[self.path](body)
        if problem:
            return self._answer(400, problem)
        self.received.append((self.path, body))
        if self.path == SLACK_PATH:
            return self._answer(200, "ok")
        return self._answer(202, json.dumps({"status": "success", "message": "", "dedup_key": body["dedup_key"]}))

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def slack_problem(body: dict[str, Any]) -> str:
    """By https://docs.slack.dev/reference/block-kit: header ≤ 150 characters, section ≤ 3000, 50 blocks."""
    if not body.get("text") or len(body["blocks"]) > 50:
        return "no_text"
    for block in body["blocks"]:
        text = block["text"]
        limit = {"header": 150, "section": 3000}[block["type"]]
        if text["type"] != "plain_text" or not 0 < len(text["text"]) <= limit:
            return "invalid_blocks"
    return ""


def pagerduty_problem(body: dict[str, Any]) -> str:
    """By PagerDuty's "Send an alert event": required fields, severities, lengths."""
    payload = body.get("payload", {})
    if body.get("routing_key") != PAGERDUTY_KEY or body.get("event_action") != "trigger":
        return "invalid event"
    if not 0 < len(payload.get("summary", "")) <= 1024 or not payload.get("source") or len(body["dedup_key"]) > 255:
        return "invalid payload"
    if payload.get("severity") not in ("critical", "error", "warning", "info"):
        return "invalid severity"
    return "" if all(link["href"].startswith("http") for link in body.get("links", [])) else "invalid links"


@pytest.fixture
def sink(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    received: list[tuple[str, dict[str, Any]]] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Server", (Sink,), {"received": received}))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"https://localhost:{server.server_port}"
    for variable in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.setenv(variable, str(certificate))
    slack = {"conn_type": "slackwebhook", "host": url, "password": SLACK_PATH.removeprefix("/")}
    pagerduty = {"conn_type": "pagerduty_events", "host": url, "password": PAGERDUTY_KEY}
    monkeypatch.setenv("AIRFLOW_CONN_TEAM_SLACK", json.dumps(slack))
    monkeypatch.setenv("AIRFLOW_CONN_TEAM_PAGERDUTY", json.dumps(pagerduty))
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example.com")
    yield received
    server.shutdown()
    thread.join()
    server.server_close()


BOTH = AlertSettings(alert_slack_conn_id="team_slack", alert_pagerduty_conn_id="team_pagerduty")


def test_slack_and_pagerduty_take_an_alert_with_what_which_why_and_a_link(sink: list[Any]) -> None:
    needed = {"bucket_name": "b-1", "emr_application_id": "a", "execution_role_arn": "arn:aws:iam::123456789012:role/x"}
    rejected = FileOutcomes(rejected={HOSTILE: "too_many_quarantined: 40 of 40 rows are bad"})
    found = files_not_taken(load_pipeline_settings(needed.get), "manual__2024-06-25T00:00:00+00:00", rejected)
    assert alert_channels.send(BOTH, found) == ["Slack", "PagerDuty"]

    (_, slack), (_, pagerduty) = sink
    text = "".join(block["text"]["text"] for block in slack["blocks"])
    payload = pagerduty["payload"]
    assert slack["unfurl_links"] is False
    for shown in (text, payload["custom_details"]["text"]):
        assert "rejected 1 of its files" in shown
        assert "too_many_quarantined: 40 of 40 rows are bad" in shown
        assert "s3://b-1/rejected/" in shown
        assert "https://airflow.example.com/dags/music_streaming_pipeline/runs/manual__2024-06-25T00%3A00" in shown
        assert re.sub("\n", "", shown).isprintable()
    assert not re.search("[<>]|&(?!amp;|lt;|gt;)", text), "a mention or a link would come of it"
    assert (payload["severity"], pagerduty["dedup_key"]) == ("warning", "music_streaming_pipeline files_not_taken")
    assert pagerduty["links"][0]["href"].startswith("https://airflow.example.com/dags/")


def test_long_texts_are_cut_to_what_slack_takes(sink: list[Any]) -> None:
    long = alert("run_failed", "critical", "x" * 500, ["<" * 5000] * 500)
    assert alert_channels.send(BOTH, long) == ["Slack", "PagerDuty"]
    assert len(sink[0][1]["blocks"]) == 50


@pytest.mark.usefixtures("sink")
def test_a_channel_that_refuses_does_not_keep_the_other_back() -> None:
    gone = AlertSettings(alert_slack_conn_id="team_slack", alert_pagerduty_conn_id="nobody")
    assert alert_channels.send(gone, alert("late", "error", "late", ["text"])) == ["Slack"]


def test_no_channel_that_takes_it_is_an_error(sink: list[Any]) -> None:
    gone = AlertSettings(alert_slack_conn_id="nobody")
    with pytest.raises(alert_channels.AlertError, match="Slack"):
        alert_channels.send(gone, alert("late", "error", "late", ["text"]))
    assert sink == []


PERSONAL = "4711,Jane Doe,31,Norway"
SECRET = "password=hunter2"  # noqa: S105
TASK = "https://airflow.example.com/dags/music_streaming_pipeline/runs/r%201/tasks/claim_files"


def failed_task(error: BaseException | None) -> tuple[dict[str, Any], dict[str, str]]:
    """The context of a failed task, and what it hands on by XCom."""
    pushed: dict[str, str] = {}
    ti = SimpleNamespace(
        dag_id="music_streaming_pipeline",
        task_id="claim_files",
        xcom_push=lambda key, value: pushed.update({key: value}),
    )
    params = {"alert_slack_conn_id": "team_slack", "alert_pagerduty_conn_id": "team_pagerduty"}
    return {"ti": ti, "run_id": "r 1", "exception": error, "params": params}, pushed


def raised(error: Exception, cause: Exception | None = None) -> Exception:
    """An exception as it is after it was raised."""
    try:
        raise error from cause
    except Exception as found:  # noqa: BLE001 (it is the one)
        return found


FAILED = JobFailedError(f"EMR says: {PERSONAL} {SECRET}", "the Spark job j1 is FAILED", 1)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (raised(ValueError(f"{PERSONAL} {SECRET}")), f"ValueError; its message is only in the log: {TASK}"),
        (raised(KeyError(PERSONAL), ValueError(SECRET)), f"KeyError; its message is only in the log: {TASK}"),
        (raised(AppError("lake.json is newer")), "AppError: lake.json is newer"),
        (raised(RuntimeError(str(FAILED)), FAILED), "JobFailedError: the Spark job j1 is FAILED"),
        (None, "No failure message recorded; see the task log"),
    ],
    ids=["foreign", "foreign, of a foreign one", "our own", "Airflow's, of our own", "unknown"],
)
@pytest.mark.parametrize("by", ["mark_failed", "its own alert"])
def test_only_our_own_errors_words_leave_the_log(
    sink: list[Any], monkeypatch: pytest.MonkeyPatch, error: Exception | None, told: str, by: str
) -> None:
    context, pushed = failed_task(error)
    if by == "mark_failed":
        dag_support.note_failure(context)
        failures = {"claim_files": pushed[dag_support.FAILURE_KEY]}
        alert_channels.send(BOTH, run_failed("r 1", failures, FileOutcomes(), {}))
    else:
        monkeypatch.setattr(dag_support.Variable, "get", lambda *_, default: default)
        dag_support.alert_of_task(context)
    (_, slack), (_, pagerduty) = sink
    slack_text = "".join(block["text"]["text"] for block in slack["blocks"])
    for text in (slack_text, pagerduty["payload"]["custom_details"]["text"]):
        assert told in text
        assert "claim_files" in text
    for hidden in (PERSONAL, "Jane", SECRET):
        assert hidden not in json.dumps(sink)
