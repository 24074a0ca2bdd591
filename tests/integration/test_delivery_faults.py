"""Deliveries to a real DynamoDB through a proxy that refuses, hands back, delays and loses."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mypy_boto3_dynamodb import DynamoDBClient

from kpi_common.errors import AwsError
from kpi_pipeline.errors import LeaseError, TooManyRetriesError, VerificationError
from tests.integration.delivery_helpers import (
    STATUS,
    day,
    days,
    expected,
    kpis,
    run_command,
    run_delivery,
    scan,
    start_command,
    statuses,
)
from tests.support.dynamodb_proxy import (
    DROP_REPLY,
    DROP_REQUEST,
    PASS,
    SERVER_ERROR,
    THROTTLE,
    Decide,
    Fault,
    FaultyDynamoDB,
    Request,
    TokenBucket,
)
from tests.support.export_files import DAILY, dynamodb_json, write_export

pytestmark = pytest.mark.integration

Proxy = Callable[[Decide], FaultyDynamoDB]


def every_third_batch(fault: Fault) -> Decide:
    """Return a decision that spoils every third batch, the first among them."""
    return lambda request: fault if request.operation == "BatchWriteItem" and request.number % 3 == 0 else PASS


@pytest.mark.parametrize(
    ("fault", "resent"),
    [
        (THROTTLE, True),
        (SERVER_ERROR, True),
        (Fault(unprocessed=7), True),
        (Fault(unprocessed=25), True),
        (DROP_REPLY, True),
        (DROP_REQUEST, True),
        (Fault(unprocessed=3, drop_reply=True), True),
        (Fault(delay=0.3), False),
    ],
    ids=["throttled", "server error", "7 unprocessed", "all unprocessed", "reply lost", "request lost", "both", "slow"],
)
def test_faults_of_batches_are_overcome(
    dynamodb: DynamoDBClient, table_prefix: str, tmp_path: Path, faulty_dynamodb: Proxy, fault: Fault, resent: bool
) -> None:
    june = days(2, genres=100)
    write_export(tmp_path, 1, june)
    proxy = faulty_dynamodb(every_third_batch(fault))
    outcome = run_delivery(tmp_path, table_prefix, endpoint_url=proxy.url)
    assert kpis(dynamodb, table_prefix) == expected(june)
    counts = outcome.receipt["tables"][DAILY]
    assert counts["put"] == 200
    assert (counts["retries"] > 0) == resent
    assert outcome.receipt["tables"][DAILY]["requests"] <= proxy.count("BatchWriteItem") <= 20


@pytest.mark.parametrize("fault", [THROTTLE, SERVER_ERROR, DROP_REPLY, DROP_REQUEST])
def test_every_other_request_of_any_kind_fails(
    dynamodb: DynamoDBClient, table_prefix: str, tmp_path: Path, faulty_dynamodb: Proxy, fault: Fault
) -> None:
    """Also those that make tables, take the lease and write status items, some of them carried out without a reply."""
    june = days(1, genres=30)
    write_export(tmp_path, 1, june)
    proxy = faulty_dynamodb(lambda request: fault if request.number % 2 == 0 else PASS)
    run_delivery(tmp_path, table_prefix, endpoint_url=proxy.url)
    assert kpis(dynamodb, table_prefix) == expected(june)
    assert statuses(dynamodb, table_prefix)["2024-06-01"]["state"] == "complete"


def test_little_capacity_costs_few_requests(
    dynamodb: DynamoDBClient, table_prefix: str, tmp_path: Path, faulty_dynamodb: Proxy
) -> None:
    june = days(10, genres=400)
    write_export(tmp_path, 1, june, days_a_part=10)
    proxy = faulty_dynamodb(TokenBucket(items_a_second=600, burst=600))
    run_delivery(tmp_path, table_prefix, endpoint_url=proxy.url, longest_wait_seconds=5)
    assert kpis(dynamodb, table_prefix) == expected(june)
    assert proxy.count("BatchWriteItem") <= 1.5 * (4010 / 25)


def test_rate_limit_is_kept(dynamodb: DynamoDBClient, table_prefix: str, tmp_path: Path) -> None:
    june = days(1, genres=150)
    write_export(tmp_path, 1, june)
    started = time.monotonic()
    run_delivery(tmp_path, table_prefix, max_write_rate=100)
    assert time.monotonic() - started > 1.2  # the last of 151 items begins after 1.26 s or more
    assert kpis(dynamodb, table_prefix) == expected(june)


def test_retries_have_a_ceiling(
    dynamodb: DynamoDBClient, table_prefix: str, tmp_path: Path, faulty_dynamodb: Proxy
) -> None:
    june = days(1, genres=100)
    write_export(tmp_path, 1, june)
    proxy = faulty_dynamodb(lambda request: THROTTLE if request.operation == "BatchWriteItem" else PASS)
    with pytest.raises(TooManyRetriesError, match="DynamoDB took nothing, 4 times in a row"):
        run_delivery(tmp_path, table_prefix, endpoint_url=proxy.url, max_retries=3)
    assert proxy.count("BatchWriteItem") <= 20
    assert statuses(dynamodb, table_prefix)["2024-06-01"]["state"] == "writing"
    assert run_delivery(tmp_path, table_prefix).outcome == "delivered"
    assert kpis(dynamodb, table_prefix) == expected(june)


def test_refused_requests_are_told_in_one_sentence(
    dynamodb: DynamoDBClient, table_prefix: str, tmp_path: Path, faulty_dynamodb: Proxy
) -> None:
    write_export(tmp_path, 1, days(1))
    denied = Fault(error=(400, "AccessDeniedException"))
    proxy = faulty_dynamodb(lambda request: denied if request.operation == "BatchWriteItem" else PASS)
    with pytest.raises(AwsError, match="AccessDeniedException"):
        run_delivery(tmp_path, table_prefix, endpoint_url=proxy.url)
    assert proxy.count("BatchWriteItem") == 1
    assert dynamodb.list_tables()


def test_reader_can_tell_a_day_that_is_being_rewritten(
    dynamodb: DynamoDBClient, table_prefix: str, tmp_path: Path, faulty_dynamodb: Proxy
) -> None:
    """At each batch the day's state is `writing`, with the version of the last complete state."""
    write_export(tmp_path, 1, {**days(1), "2024-06-02": day("2024-06-02")})
    run_delivery(tmp_path, table_prefix)
    write_export(tmp_path, 2, {**days(1), "2024-06-02": day("2024-06-02", plays=99)})
    seen: list[dict[str, Any]] = []

    def look(request: Request) -> Fault:
        if request.operation == "BatchWriteItem":
            seen.append(statuses(dynamodb, table_prefix))
        return PASS

    run_delivery(tmp_path, table_prefix, endpoint_url=faulty_dynamodb(look).url)
    (status,) = seen
    changing = status["2024-06-02"]
    assert (changing["state"], changing["version"], changing["writing_version"]) == ("writing", 1, 2)
    assert status["2024-06-01"]["state"] == "complete"  # it does not change
    after = statuses(dynamodb, table_prefix)
    assert {(item["state"], item["version"], item.get("writing_version")) for item in after.values()} == {
        ("complete", 2, None)
    }


# --- a writer that dies ---

KILL_POINTS = [
    ("CreateTable", 1),
    ("UpdateItem", 0),
    ("TransactWriteItems", 0),
    ("BatchWriteItem", 0),
    ("BatchWriteItem", 2),
    ("Query", 3),
    ("TransactWriteItems", 1),
]


@pytest.mark.parametrize("carried_out", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("operation", "number"), KILL_POINTS)
def test_killed_writer_is_repeated_with_the_same_end(
    dynamodb: DynamoDBClient,
    table_prefix: str,
    tmp_path: Path,
    faulty_dynamodb: Proxy,
    operation: str,
    number: int,
    carried_out: bool,
) -> None:
    """The process gets SIGKILL at a request, before it is sent on or after it was carried out."""
    june = days(1, genres=60)
    write_export(tmp_path, 1, june)
    victim: list[subprocess.Popen[str]] = []

    def kill(request: Request) -> Fault:
        if (request.operation, request.number) != (operation, number):
            return PASS
        if not carried_out:
            os.kill(victim[0].pid, signal.SIGKILL)
            return DROP_REQUEST
        return Fault(then=lambda: os.kill(victim[0].pid, signal.SIGKILL), drop_reply=True)

    proxy = faulty_dynamodb(kill)
    command = ["deliver", "--lake", str(tmp_path), "--table-prefix", table_prefix, "--workers", "2"]
    command += ["--lease-seconds", "1", "--endpoint-url", proxy.url]
    victim.append(start_command(*command))
    victim[0].communicate(timeout=60)
    assert victim[0].returncode == -signal.SIGKILL
    assert not (tmp_path / "exports" / "run-1" / "delivered.json").exists()
    proxy.decide = lambda _: PASS
    code, _, err = run_command(*command)
    assert code == 0, err
    assert kpis(dynamodb, table_prefix) == expected(june)
    assert statuses(dynamodb, table_prefix)["2024-06-01"]["state"] == "complete"


# --- several writers ---


def test_late_batch_is_mended_by_the_verification(
    dynamodb: DynamoDBClient, table_prefix: str, tmp_path: Path, faulty_dynamodb: Proxy
) -> None:
    """Somebody's write lands between writing and reading back."""
    june = days(1)
    write_export(tmp_path, 1, june)
    stale = {"date": "2024-06-01", "genre": "stale", "listen_count": 1}

    def disturb(request: Request) -> Fault:
        if request.operation == "Query" and request.number == 2:  # the first of the read-back: two tables, one date
            _put(dynamodb, table_prefix, stale)
        return PASS

    outcome = run_delivery(tmp_path, table_prefix, endpoint_url=faulty_dynamodb(disturb).url, workers=1)
    assert outcome.receipt["tables"][DAILY] == {"put": 3, "deleted": 1, "unchanged": 0, "requests": 2, "retries": 0}
    assert kpis(dynamodb, table_prefix) == expected(june)


def test_table_that_somebody_else_keeps_writing_is_an_error(
    dynamodb: DynamoDBClient, table_prefix: str, tmp_path: Path, faulty_dynamodb: Proxy
) -> None:
    write_export(tmp_path, 1, days(1))

    def disturb(request: Request) -> Fault:
        if request.operation == "Query":
            _put(dynamodb, table_prefix, {"date": "2024-06-01", "genre": "stale"})
        return PASS

    with pytest.raises(VerificationError, match="DailyGenreKPIs, 2024-06-01: 0 items missing or different, 1 too many"):
        run_delivery(tmp_path, table_prefix, endpoint_url=faulty_dynamodb(disturb).url)
    assert statuses(dynamodb, table_prefix)["2024-06-01"]["state"] == "writing"
    assert not (tmp_path / "exports" / "run-1" / "delivered.json").exists()


def test_second_writer_of_the_same_export_waits(
    dynamodb: DynamoDBClient, table_prefix: str, tmp_path: Path, faulty_dynamodb: Proxy
) -> None:
    june = days(1, genres=60)
    write_export(tmp_path, 1, june)
    wake, asleep = threading.Event(), threading.Event()

    def hold_first_batch(request: Request) -> Fault:
        if request.operation == "BatchWriteItem" and request.number == 0:
            asleep.set()
            return Fault(hold=wake)
        return PASS

    proxy = faulty_dynamodb(hold_first_batch)
    outcomes: list[Any] = []

    def first() -> None:
        outcomes.append(run_delivery(tmp_path, table_prefix, endpoint_url=proxy.url, lease_seconds=20))

    writer = threading.Thread(target=first)
    writer.start()
    assert asleep.wait(30)
    with pytest.raises(LeaseError, match=r"is being written by .* and still was after 1 s"):
        run_delivery(tmp_path, table_prefix, "run-1", wait_seconds=1)
    threading.Timer(1, wake.set).start()
    assert run_delivery(tmp_path, table_prefix, "run-1").receipt["tables"][DAILY]["put"] == 0
    writer.join(30)
    assert outcomes[0].outcome == "delivered"
    assert kpis(dynamodb, table_prefix) == expected(june)


def test_writer_silent_for_too_long_loses_its_lease(
    dynamodb: DynamoDBClient, table_prefix: str, tmp_path: Path, faulty_dynamodb: Proxy
) -> None:
    june = days(1, genres=60)
    write_export(tmp_path, 1, june)
    wake, asleep = threading.Event(), threading.Event()

    def hold_first_batch(request: Request) -> Fault:
        if request.operation == "BatchWriteItem" and request.number == 0:
            asleep.set()
            return Fault(hold=wake)
        return PASS

    proxy = faulty_dynamodb(hold_first_batch)
    errors: list[BaseException] = []

    def first() -> None:
        try:
            run_delivery(tmp_path, table_prefix, endpoint_url=proxy.url, workers=1)
        except LeaseError as error:
            errors.append(error)

    writer = threading.Thread(target=first)
    writer.start()
    assert asleep.wait(30)
    assert run_delivery(tmp_path, table_prefix, "run-1").outcome == "delivered"
    wake.set()
    writer.join(30)
    assert "another writer (finished by now) took over" in str(errors[0])
    assert kpis(dynamodb, table_prefix) == expected(june)
    control = next(item for item in scan(dynamodb, table_prefix + STATUS) if item["date"] == "#control")
    assert control["export_seq"] == 1
    assert "holder" not in control


def _put(client: DynamoDBClient, prefix: str, item: dict[str, Any]) -> None:
    client.put_item(TableName=prefix + DAILY, Item={name: dynamodb_json(value) for name, value in item.items()})
