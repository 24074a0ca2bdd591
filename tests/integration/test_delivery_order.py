"""Deliveries out of order: an old export after a newer one, a writer that was asleep, one that was never delivered."""

import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mypy_boto3_dynamodb import DynamoDBClient

from kpi_pipeline import steps
from kpi_pipeline.settings import load_delivery_settings
from tests.integration.delivery_helpers import (
    STATUS,
    days,
    expected,
    kpis,
    run_command,
    run_delivery,
    scan,
    start_command,
    statuses,
)
from tests.support.dynamodb_proxy import DROP_REQUEST, PASS, Decide, Fault, FaultyDynamoDB, Request
from tests.support.export_files import DAILY, write_export

pytestmark = pytest.mark.integration

Proxy = Callable[[Decide], FaultyDynamoDB]
OLDER_PLAYS, NEWER_PLAYS = 1, 1000
WAIT_S = 30


def deliver_command(lake: Path, prefix: str, run_id: str, url: str, *more: str) -> list[str]:
    command = ["deliver", "--lake", str(lake), "--table-prefix", prefix, "--run-id", run_id, "--endpoint-url", url]
    return [*command, "--lease-seconds", "1", *more]


def puts_of(plays: int, requests: list[Request]) -> list[Request]:
    """Return the batches that put daily figures of the export with so many plays."""
    return [request for request in requests if any(_plays(entry) == plays for _, entry in request.writes)]


def _plays(entry: dict[str, Any]) -> int | None:
    item = entry.get("PutRequest", {}).get("Item", {})
    return int(item["listen_count"]["N"]) - int(item["genre"]["S"][-3:]) if "genre" in item else None


def written_again(requests: list[Request]) -> bool:
    """Whether an item was written more than once."""
    keys = [
        str(entry["PutRequest"]["Item"]["genre"] if "PutRequest" in entry else entry["DeleteRequest"]["Key"]["genre"])
        for request in requests
        for table, entry in request.writes
        if table.endswith(DAILY)
    ]
    return len(keys) > len(set(keys))


@pytest.mark.parametrize("newer_is", ["delivered", "killed in a batch"])
def test_older_export_is_refused_once_a_newer_one_has_begun(
    dynamodb: DynamoDBClient, table_prefix: str, tmp_path: Path, faulty_dynamodb: Proxy, newer_is: str
) -> None:
    """The command ends well and says why; not one item and no status is written, and there is no receipt."""
    older, newer = days(2, genres=60, plays=OLDER_PLAYS), days(3, genres=50, plays=NEWER_PLAYS)
    write_export(tmp_path, 1, older)
    write_export(tmp_path, 2, newer)
    victim: list[subprocess.Popen[str]] = []

    def kill(request: Request) -> Fault:
        if (request.operation, request.number) == ("BatchWriteItem", 2) and newer_is != "delivered":
            os.kill(victim[0].pid, signal.SIGKILL)
            return DROP_REQUEST
        return PASS

    proxy = faulty_dynamodb(kill)
    victim.append(start_command(*deliver_command(tmp_path, table_prefix, "run-2", proxy.url, "--workers", "1")))
    victim[0].communicate(timeout=60)
    assert victim[0].returncode == (0 if newer_is == "delivered" else -signal.SIGKILL)
    before, before_status = kpis(dynamodb, table_prefix), scan(dynamodb, table_prefix + STATUS)
    proxy.forget()
    code, out, err = run_command(*deliver_command(tmp_path, table_prefix, "run-1", proxy.url))
    assert code == 0, err
    assert "export 1 is superseded: export 2 (run run-2) has begun and contains it" in out
    assert proxy.count("BatchWriteItem") == proxy.count("TransactWriteItems") == 0
    assert (kpis(dynamodb, table_prefix), scan(dynamodb, table_prefix + STATUS)) == (before, before_status)
    assert not (tmp_path / "exports" / "run-1" / "delivered.json").exists()
    # The newer one, finished if need be, is what is there in the end.
    assert run_delivery(tmp_path, table_prefix, "run-2").outcome == "delivered"
    assert kpis(dynamodb, table_prefix) == expected(newer)


@pytest.mark.parametrize(
    ("lands", "workers"),
    [
        ("while the newer one reads back", 8),
        ("after the newer one", 1),
        pytest.param("while the newer one reads back", 1, marks=pytest.mark.long),
        pytest.param("after the newer one", 8, marks=pytest.mark.long),
    ],
)
def test_writer_asleep_in_its_batch_lands_no_other_and_it_is_mended(
    dynamodb: DynamoDBClient,
    table_prefix: str,
    tmp_path: Path,
    faulty_dynamodb: Proxy,
    figure: Callable[[str], None],
    lands: str,
    workers: int,
) -> None:
    """SIGSTOP with one batch a thread under way; a newer export is delivered; they land; SIGCONT.

    What lands before the newer delivery has read all back is mended by its verification, without the sleeper. What
    lands later is mended by the sleeper itself when it wakes up and finds that it was taken over.
    """
    older, newer = days(1, genres=700, plays=OLDER_PLAYS), days(1, genres=650, plays=NEWER_PLAYS)
    write_export(tmp_path, 1, older)
    land, landed, asleep = threading.Event(), threading.Semaphore(0), threading.Event()
    readings: list[Request] = []

    def hold(request: Request) -> Fault:
        if request.operation != "BatchWriteItem" or not workers <= request.number < 2 * workers:
            return PASS
        if request.number == 2 * workers - 1:
            asleep.set()
        return Fault(hold=land, then=landed.release)

    proxy = faulty_dynamodb(hold)
    sleeper = start_command(
        *deliver_command(tmp_path, table_prefix, "run-1", proxy.url, "--workers", str(workers), "--wait-seconds", "15")
    )
    try:
        assert asleep.wait(WAIT_S)
        sleeper.send_signal(signal.SIGSTOP)
        write_export(tmp_path, 2, newer)

        def wait_for_late_batches(request: Request) -> Fault:
            # The second reading of their table is the one after what was written; tables are read side by side.
            if request.operation == "Query" and request.body["TableName"].endswith(DAILY):
                readings.append(request)
                if len(readings) == 2 and lands == "while the newer one reads back":
                    let_land()
            return PASS

        def let_land() -> None:
            land.set()
            assert all(landed.acquire(timeout=WAIT_S) for _ in range(workers))

        newer_proxy = faulty_dynamodb(wait_for_late_batches)
        outcome = run_delivery(tmp_path, table_prefix, "run-2", newer_proxy.url)
        assert outcome.outcome == "delivered"
        assert kpis(dynamodb, table_prefix) == expected(newer)
        if lands == "after the newer one":
            let_land()
            assert kpis(dynamodb, table_prefix) != expected(newer)  # they really landed
        else:
            assert written_again(newer_proxy.of("BatchWriteItem"))  # they really landed
        sleeper.send_signal(signal.SIGCONT)
        out, err = sleeper.communicate(timeout=60)
    finally:
        sleeper.kill()
    assert sleeper.returncode == 0, err
    assert "export 1 is superseded" in out
    late = puts_of(OLDER_PLAYS, proxy.of("BatchWriteItem"))
    assert len(late) == 2 * workers  # those before it fell asleep, those under way, and none after
    assert kpis(dynamodb, table_prefix) == expected(newer)
    assert statuses(dynamodb, table_prefix)["2024-06-01"]["version"] == 2
    assert not (tmp_path / "exports" / "run-1" / "delivered.json").exists()
    assert run_delivery(tmp_path, table_prefix, "run-2").receipt["tables"][DAILY]["requests"] == 0
    figure(
        f"delivery: {len(late) - workers} batches under way, landing {lands}: 0 items wrong in the end, 0 batches more"
    )


@pytest.mark.parametrize("by", ["the command", "a step of the DAG"])
def test_sleeper_mends_the_newest_of_several(
    dynamodb: DynamoDBClient,
    table_prefix: str,
    tmp_path: Path,
    faulty_dynamodb: Proxy,
    monkeypatch: pytest.MonkeyPatch,
    by: str,
) -> None:
    """Two newer exports were delivered while the writer waited for an answer; the newest one contains both."""
    write_export(tmp_path, 1, days(1, genres=60, plays=OLDER_PLAYS))
    newest = days(2, genres=40, plays=NEWER_PLAYS)

    def meanwhile(request: Request) -> Fault:
        if (request.operation, request.number) != ("BatchWriteItem", 1):
            return PASS
        write_export(tmp_path, 2, days(2, genres=50, plays=50))
        run_delivery(tmp_path, table_prefix, "run-2")
        write_export(tmp_path, 3, newest)
        run_delivery(tmp_path, table_prefix, "run-3")
        return PASS

    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", faulty_dynamodb(meanwhile).url)
    monkeypatch.setenv("MUSIC_KPIS_DYNAMODB_WORKERS", "1")
    if by == "the command":
        assert run_delivery(tmp_path, table_prefix, "run-1").outcome == "superseded"
    else:
        delivery = load_delivery_settings(prefix=table_prefix)
        settings = SimpleNamespace(lake=str(tmp_path), delivery=delivery, adopt_lake=False)
        monkeypatch.setattr(steps, "settings_of", lambda _: settings)
        run = {"run_id": "scheduled__1"}
        (group,), _ = steps.prepare_delivery(run, 100)
        assert steps.write_parts(run, group)["superseded"]
    assert kpis(dynamodb, table_prefix) == expected(newest)
    assert scan(dynamodb, table_prefix + STATUS)[0]["export_seq"] == 3


def test_sleeper_that_can_not_mend_says_so(
    dynamodb: DynamoDBClient,
    table_prefix: str,
    tmp_path: Path,
    faulty_dynamodb: Proxy,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The newer export is of another lake, which took the tables over."""
    for lake in ("here", "there"):
        (tmp_path / lake).mkdir()
    write_export(tmp_path / "here", 1, days(1, genres=60, plays=OLDER_PLAYS))
    newer = days(1, genres=60, plays=NEWER_PLAYS)

    def take_over(request: Request) -> Fault:
        if (request.operation, request.number) == ("BatchWriteItem", 1):
            write_export(tmp_path / "there", 2, newer)
            run_delivery(tmp_path / "there", table_prefix, "run-2")
        return PASS

    outcome = run_delivery(tmp_path / "here", table_prefix, "run-1", faulty_dynamodb(take_over).url, workers=1)
    assert outcome.outcome == "superseded"
    assert "to be sure, deliver run run-2 again" in caplog.text
    run_delivery(tmp_path / "there", table_prefix, "run-2")
    assert kpis(dynamodb, table_prefix) == expected(newer)


def test_half_delivered_and_undelivered_runs_are_contained_in_the_next(
    dynamodb: DynamoDBClient, table_prefix: str, tmp_path: Path, faulty_dynamodb: Proxy
) -> None:
    """Run 1 is delivered, 2 dies in a batch, 3 is never delivered; 4 holds all dates since the last receipt."""
    june = days(5, genres=30, plays=1)
    write_export(tmp_path, 1, june)
    run_delivery(tmp_path, table_prefix)
    state = dict(june)
    changes = {2: ["2024-06-01", "2024-06-02"], 3: ["2024-06-02", "2024-06-03"], 4: ["2024-06-05"]}
    undelivered: set[str] = set()
    for export_seq, dates in changes.items():
        undelivered |= set(dates)
        state |= {date: days(5, genres=30 - export_seq, plays=export_seq * 100)[date] for date in dates}
        write_export(tmp_path, export_seq, {date: state[date] for date in undelivered})
        if export_seq == 2:
            killed_delivery(tmp_path, table_prefix, faulty_dynamodb)
    before = kpis(dynamodb, table_prefix)
    assert before not in (expected(june), expected(state))  # half of run 2 is there
    assert run_delivery(tmp_path, table_prefix).run_id == "run-4"
    assert kpis(dynamodb, table_prefix) == expected(state)
    status = statuses(dynamodb, table_prefix)
    assert {date: int(item["version"]) for date, item in status.items()} == {
        date: 4 if date in undelivered else 1 for date in june
    }
    assert {item["state"] for item in status.values()} == {"complete"}
    assert run_delivery(tmp_path, table_prefix).outcome == "nothing_to_deliver"


def killed_delivery(lake: Path, prefix: str, faulty_dynamodb: Proxy) -> None:
    """Deliver the latest export in a process that dies after its second batch was carried out, before the answer."""
    victim: list[subprocess.Popen[str]] = []

    def die(request: Request) -> Fault:
        if (request.operation, request.number) == ("BatchWriteItem", 1):
            return Fault(then=lambda: os.kill(victim[0].pid, signal.SIGKILL), drop_reply=True)
        return PASS

    proxy = faulty_dynamodb(die)
    victim.append(start_command(*deliver_command(lake, prefix, "latest", proxy.url, "--workers", "1")))
    victim[0].communicate(timeout=60)
    assert victim[0].returncode == -signal.SIGKILL
