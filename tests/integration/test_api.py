"""The KPI API on a real DynamoDB engine: as the Lambda function, and as the server of this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest

from api.handler import handler
from api.openapi import FILE, openapi
from api.store import CONTROL_KEY, store
from tests.integration.delivery_helpers import run_delivery
from tests.support.large_export import kpi_items, write_large_export
from tools.dynamodb_local import CREDENTIALS, DynamoDBLocal, free_port
from tools.toolchain import ROOT

pytestmark = pytest.mark.integration
PREFIX = "api-"
OF_A_DAY = 113 * 4 + 24
DAYS = kpi_items(3 * OF_A_DAY)
DAY, LAST_DAY = "2024-01-02", "2024-01-03"
for _date, _tables in DAYS.items():
    _tables["DailyCountryKPIs"] = [
        {"date": _date, "country": name, "listen_count": 7, "unique_listeners": 3, "total_listening_time": 10**6}
        for name in ("Brazil", "Côte d'Ivoire", "unknown")
    ]


@pytest.fixture(scope="module")
def delivered(dynamodb_server: DynamoDBLocal, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Three days in DynamoDB; the environment in which the API finds them."""
    environment = {**dynamodb_server.environment, "MUSIC_KPIS_DYNAMODB_PREFIX": PREFIX}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        lake = tmp_path_factory.mktemp("lake")
        write_large_export(lake, 1, DAYS)
        run_delivery(lake, PREFIX)
        store.cache_clear()
        yield environment
    store.cache_clear()


@pytest.fixture(scope="module")
def server(delivered: dict[str, str]) -> Iterator[str]:
    """Address of the API's server, a process of its own."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "api.local:app", "--port", str(port), "--log-level", "warning"]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **delivered, "PYTHONPATH": str(ROOT)})
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{address}/health")  # noqa: S310 (always http)
            break
        except OSError:
            time.sleep(0.1)
    yield address
    process.terminate()
    process.wait()


@pytest.fixture
def get(delivered: dict[str, str]) -> Any:  # noqa: ARG001
    """Answers of the Lambda function: status, headers (small letters), body."""

    def ask(path: str, if_none_match: str | None = None, method: str = "GET", **query: str) -> SimpleNamespace:
        headers = {} if if_none_match is None else {"if-none-match": if_none_match}
        http = {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1", "userAgent": "test"}
        event = {
            "version": "2.0",
            "rawPath": path,
            "rawQueryString": "",
            "headers": headers,
            "queryStringParameters": query,
            "requestContext": {"http": http, "stage": "$default"},
            "isBase64Encoded": False,
        }
        answer = handler(event, None)
        named = {name.lower(): value for name, value in answer["headers"].items()}
        body = json.loads(answer["body"]) if answer.get("body") else None
        return SimpleNamespace(status=answer["statusCode"], headers=named, body=body)

    return ask


def of_day(table: str) -> list[dict[str, Any]]:
    return DAYS[DAY][table]


def test_all_pages_of_a_day_are_what_was_delivered(get: Any) -> None:
    items, token = [], None
    while True:
        answer = get(f"/v1/kpis/daily/{DAY}", limit="50", **({"next": token} if token else {}))
        assert (answer.status, answer.body["complete"], answer.body["run_id"]) == (200, True, "run-1")
        items += answer.body["items"]
        token = answer.body["next"]
        if token is None:
            break
    assert [(item["track_genre"], item["listen_count"], item["top_3_song_names"]) for item in items] == [
        (one["genre"], one["listen_count"], one["top_3_song_names"]) for one in of_day("DailyGenreKPIs")
    ]


def test_decimals_are_exact_strings(get: Any) -> None:
    wanted = of_day("DailyGenreKPIs")[5]
    answer = get(f"/v1/kpis/daily/{DAY}/{wanted['genre']}")
    (item,) = answer.body["items"]
    for name, attribute in (
        ("avg_listening_time_per_user_s", "avg_listening_time_per_user"),
        ("popularity_index", "popularity_index"),
    ):
        assert item[name] == format(wanted[attribute].normalize(), "f")


def test_hours_songs_and_countries(get: Any) -> None:
    hours = get(f"/v1/kpis/hourly/{DAY}").body["items"]
    assert [(one["listen_hour"], one["unique_tracks"], one["top_artists"]) for one in hours] == [
        (one["hour"], one["unique_tracks"], one["top_artists"]) for one in of_day("HourlyKPIs")
    ]
    songs = get(f"/v1/top-songs/{DAY}/genre-007").body["items"]
    assert [(one["rank"], one["track_name"], one["play_count"]) for one in songs] == [
        (one["rank"], one["track_name"], one["play_count"])
        for one in of_day("TopSongsPerGenre")
        if one["genre"] == "genre-007"
    ]
    countries = get(f"/v1/countries/{DAY}").body["items"]
    assert [one["country"] for one in countries] == ["Brazil", "Côte d'Ivoire", "unknown"]


def test_days_of_a_genre_by_the_index(get: Any) -> None:
    answer = get("/v1/genres/genre-000", **{"from": "2024-01-02", "to": "2024-02-01", "limit": "1"})
    assert [(one["listen_date"], one["complete"], one["run_id"]) for one in answer.body["items"]] == [
        (DAY, True, "run-1")
    ]
    rest = get("/v1/genres/genre-000", **{"from": DAY, "to": "2024-02-01", "next": answer.body["next"]})
    assert [one["listen_date"] for one in rest.body["items"]] == [LAST_DAY]
    assert get("/v1/genres/none").body == {"genre": "none", "items": [], "next": None}


@pytest.mark.parametrize(
    ("path", "query", "status", "kind"),
    [
        ("/v1/kpis/daily/2024-01-04", {}, 404, "not-computed-yet"),
        ("/v1/kpis/daily/2023-12-31", {}, 404, "no-such-day"),
        (f"/v1/kpis/daily/{DAY}/none", {}, 404, "no-such-genre"),
        (f"/v1/top-songs/{DAY}/genre-00", {}, 404, "no-such-genre"),
        ("/v1/nothing", {}, 404, "no-such-path"),
        ("/v1/kpis/daily/2024-02-30", {}, 400, "bad-request"),
        (f"/v1/kpis/daily/{DAY}", {"limit": "0"}, 400, "bad-request"),
        (f"/v1/kpis/daily/{DAY}", {"next": "e30"}, 400, "bad-request"),
        (f"/v1/kpis/daily/{DAY}", {"next": "äö"}, 400, "bad-request"),
        ("/v1/genres/pop", {"from": "2024-02-01", "to": "2024-01-01"}, 400, "bad-request"),
    ],
)
def test_errors_are_problems(get: Any, path: str, query: dict[str, str], status: int, kind: str) -> None:
    answer = get(path, **query)
    assert (answer.status, answer.body["type"]) == (status, f"/problems/{kind}")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    assert ("retry-after" in answer.headers) == (kind == "not-computed-yet")


def test_a_token_of_another_day_is_refused(get: Any) -> None:
    token = get(f"/v1/kpis/daily/{DAY}", limit="1").body["next"]
    assert get(f"/v1/kpis/daily/{LAST_DAY}", next=token).status == 400


def test_only_get(get: Any) -> None:
    answer = get(f"/v1/kpis/daily/{DAY}", method="POST")
    assert (answer.status, answer.headers["allow"]) == (405, "GET")


def test_what_one_has_is_not_sent_again(get: Any) -> None:
    first = get(f"/v1/countries/{DAY}")
    assert first.headers["cache-control"] == "private, max-age=60"
    again = get(f"/v1/countries/{DAY}", if_none_match=f'"other", W/{first.headers["etag"]}')
    assert (again.status, again.body, again.headers["etag"]) == (304, None, first.headers["etag"])
    assert get(f"/v1/countries/{LAST_DAY}", if_none_match=first.headers["etag"]).status == 200


@pytest.fixture
def update(dynamodb_server: DynamoDBLocal) -> Iterator[Any]:
    """Sets an attribute of an item of that day, or another; afterwards all is as it was."""
    client = boto3.client("dynamodb", endpoint_url=dynamodb_server.url, **CREDENTIALS)
    undo = []

    def set_value(table: str, attribute: str, value: dict[str, str], **other_key: str) -> None:
        key = {name: {"S": text} for name, text in {"date": DAY, **other_key}.items()}
        item = client.get_item(TableName=PREFIX + table, Key=key)["Item"]
        undo.append({"TableName": PREFIX + table, "Item": item})
        client.put_item(TableName=PREFIX + table, Item={**item, attribute: value})

    yield set_value
    for request in reversed(undo):
        client.put_item(**request)
    store.cache_clear()


def five_seconds_pass() -> None:
    store()._last_delivery.clear()


def test_a_day_that_is_being_written_is_not_complete(get: Any, update: Any) -> None:
    assert get(f"/v1/kpis/hourly/{DAY}").body["complete"] is True
    update("KPIStatus", "holder", {"S": "a writer"}, date=CONTROL_KEY)
    update("KPIStatus", "state", {"S": "writing"})
    five_seconds_pass()
    answer = get(f"/v1/kpis/hourly/{DAY}")
    assert (answer.status, answer.body["complete"], answer.headers["cache-control"]) == (200, False, "no-store")
    assert "etag" not in answer.headers
    update("KPIStatus", "state", {"S": "complete"})
    five_seconds_pass()  # while the writer, of other days by now, is still at work
    assert get(f"/v1/kpis/hourly/{DAY}").body["complete"] is True


def test_a_page_is_kept_until_its_day_has_a_new_version(get: Any, update: Any) -> None:
    path = f"/v1/kpis/daily/{DAY}/genre-009"
    before = get(path)
    listens = before.body["items"][0]["listen_count"]
    update("DailyGenreKPIs", "listen_count", {"N": str(listens + 1)}, genre="genre-009")
    update("KPIStatus", "export_seq", {"N": "2"}, date=CONTROL_KEY)
    five_seconds_pass()
    assert get(path).body == before.body  # the delivery was of other days
    update("KPIStatus", "version", {"N": "3"})
    update("KPIStatus", "export_seq", {"N": "3"}, date=CONTROL_KEY)
    five_seconds_pass()
    after = get(path)
    assert after.body["items"][0]["listen_count"] == listens + 1
    assert after.headers["etag"] != before.headers["etag"]


def test_the_days_of_a_genre_are_kept_until_a_delivery_writes(get: Any, update: Any) -> None:
    def first_day() -> tuple[int, bool, int]:
        body = get("/v1/genres/genre-010", **{"from": DAY}).body
        return len(body["items"]), body["items"][0]["complete"], body["items"][0]["listen_count"]

    days, complete, listens = first_day()
    assert (days, complete) == (2, True)
    update("DailyGenreKPIs", "listen_count", {"N": str(listens + 1)}, genre="genre-010")
    five_seconds_pass()
    assert first_day() == (2, True, listens)
    update("KPIStatus", "holder", {"S": "a writer"}, date=CONTROL_KEY)
    update("KPIStatus", "state", {"S": "writing"})
    five_seconds_pass()
    assert first_day() == (2, False, listens + 1)
    update("DailyGenreKPIs", "listen_count", {"N": str(listens + 2)}, genre="genre-010")
    assert first_day() == (2, False, listens + 1)
    five_seconds_pass()
    assert first_day() == (2, False, listens + 2)


def test_health_tells_how_fresh_the_figures_are(get: Any) -> None:
    health = get("/health").body
    assert (health["status"], health["newest_day"], health["run_id"]) == ("ok", LAST_DAY, "run-1")
    assert 0 <= health["age_seconds"] < 600


def test_without_dynamodb_it_says_so(get: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", f"http://127.0.0.1:{free_port()}")
    store.cache_clear()
    answer = get(f"/v1/kpis/daily/{DAY}")
    store.cache_clear()
    assert (answer.status, answer.body["type"]) == (503, "/problems/unavailable")


def test_the_description_is_that_of_the_code() -> None:
    assert FILE.read_text(encoding="utf-8") == openapi(), "python -m api.openapi writes it again"


def test_the_server_answers_as_the_function_does(get: Any, server: str) -> None:
    for path in (f"/v1/kpis/daily/{DAY}", "/v1/genres/genre-001", f"/v1/top-songs/{DAY}/genre-007"):
        with urllib.request.urlopen(server + path) as answer:  # noqa: S310
            ours = get(path)
            assert (json.load(answer), answer.headers["ETag"]) == (ours.body, ours.headers["etag"])


def test_many_requests_at_once_get_their_own_answers(server: str) -> None:
    def ask(number: int) -> str:
        path = f"/v1/top-songs/{DAY}/genre-{number % 96:03d}"
        with urllib.request.urlopen(server + path, timeout=60) as answer:  # noqa: S310
            return str({item["track_genre"] for item in json.load(answer)["items"]})

    with ThreadPoolExecutor(48) as pool:
        assert list(pool.map(ask, range(192))) == [str({f"genre-{number % 96:03d}"}) for number in range(192)]


def test_schemathesis_finds_nothing(server: str, tmp_path: Path) -> None:
    # A `next` that nobody gave, or a `from` after `to`, fit the schema and are refused all the same.
    (tmp_path / "schemathesis.toml").write_text(
        '[checks.positive_data_acceptance]\nexpected-statuses = ["2xx", "304", "400", "404"]\n'
    )
    command = [sys.executable, "-m", "schemathesis.cli", "run", str(FILE), "--url", server]
    command += ["--checks", "all", "--max-examples", "15", "--seed", "1", "--generation-database", "none"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
