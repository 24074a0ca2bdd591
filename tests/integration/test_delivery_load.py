"""Deliveries to a server with too little capacity: all there, few requests in vain, and no busy loop.

The server is a stub that meters items by a token bucket and hands back what is over it; DynamoDB Local behind it has
the status table. `./build.sh test --all` also does it with 100,000 items.
"""

import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from mypy_boto3_dynamodb import DynamoDBClient

from kpi_pipeline.dynamodb.items import Item, comparable
from tests.integration.delivery_helpers import start_command, statuses
from tests.support.dynamodb_stub import DynamoDBStub
from tests.support.export_files import dynamodb_json
from tests.support.large_export import Days, kpi_items, table_keys, write_large_export
from tools.dynamodb_local import DynamoDBLocal

pytestmark = pytest.mark.integration

BATCH = 25


@dataclass(frozen=True)
class Run:
    """A delivery that went well: seconds of wall clock and of CPU, and the receipt."""

    seconds: float
    cpu_seconds: float
    receipt: dict[str, Any]


@pytest.mark.parametrize(
    ("items", "a_second"),
    [pytest.param(2_000, 800, marks=pytest.mark.sample), pytest.param(100_000, 2_500, marks=pytest.mark.long)],
    ids=["2,000 items", "100,000 items"],
)
def test_metered_capacity(
    dynamodb: DynamoDBClient,
    dynamodb_server: DynamoDBLocal,
    table_prefix: str,
    tmp_path: Path,
    items: int,
    a_second: int,
    figure: Callable[[str], None],
) -> None:
    days = kpi_items(items)
    write_large_export(tmp_path, 1, days)
    with DynamoDBStub(
        table_keys(table_prefix), delay=0.01, capacity=a_second, burst=a_second, upstream=dynamodb_server.url
    ) as stub:
        run = finish(start(tmp_path, table_prefix, stub), tmp_path)
        counts = stub.counts()
        requests, per_second = counts["requests"]["BatchWriteItem"], counts["seconds"]
        least = -(-items // BATCH)
        figure(
            f"delivery: {items:,} items at {a_second:,} a second: {requests:,} requests, "
            f"{requests / least:.2f} × the least; {counts['refused']} refused, "
            f"{counts['unprocessed']:,} items handed back; at most {max(per_second)} requests a second; "
            f"{run.seconds:.1f} s, {run.cpu_seconds:.1f} s of CPU"
        )
        assert_same_items(stub, table_prefix, days)
    assert counts["refused"] + counts["unprocessed"] > 0  # else nothing was shown
    assert counts["puts"] == items
    assert requests <= 1.5 * least
    assert len(per_second) >= 0.8 * (items / a_second - 1)
    # Never many more than a full bucket and the capacity take, not even in the first second.
    assert max(per_second) <= 3 * a_second / BATCH
    assert sum(table["put"] for table in run.receipt["tables"].values()) == items
    assert {item["state"] for item in statuses(dynamodb, table_prefix).values()} == {"complete"}


@pytest.mark.usefixtures("dynamodb")
def test_server_that_takes_nothing_for_a_while(
    dynamodb_server: DynamoDBLocal, table_prefix: str, tmp_path: Path, figure: Callable[[str], None]
) -> None:
    """All threads wait together: a handful of requests, next to no CPU, and all goes on when the server does."""
    days = kpi_items(1_000)
    write_large_export(tmp_path, 1, days)
    with DynamoDBStub(table_keys(table_prefix), capacity=-1, upstream=dynamodb_server.url) as stub:
        writer = start(tmp_path, table_prefix, stub)
        until = time.monotonic() + 30
        while stub.counts()["refused"] == 0 and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(0.3)  # the threads' first requests, all refused
        before, cpu = stub.counts()["refused"], cpu_seconds(writer)
        time.sleep(3)
        refused, cpu = stub.counts()["refused"] - before, cpu_seconds(writer) - cpu
        figure(f"delivery: 3 s without capacity: {before} requests, then {refused} more, {cpu:.2f} s of CPU")
        assert before <= 40
        assert refused <= 10
        assert cpu <= 0.3
        stub.set_capacity(0)
        finish(writer, tmp_path)
        assert_same_items(stub, table_prefix, days)


def start(lake: Path, prefix: str, stub: DynamoDBStub) -> subprocess.Popen[str]:
    """Start a delivery with the settings that it has by default."""
    return start_command("deliver", "--lake", str(lake), "--table-prefix", prefix, "--endpoint-url", stub.url)


def finish(writer: subprocess.Popen[str], lake: Path) -> Run:
    """Wait until a delivery is done; its output is small enough for the pipes."""
    started = psutil.Process(writer.pid).create_time()
    _, status, usage = os.wait4(writer.pid, 0)
    seconds = time.time() - started
    writer.returncode = os.waitstatus_to_exitcode(status)
    _, err = writer.communicate()
    assert writer.returncode == 0, err
    receipt = json.loads((lake / "exports" / "run-1" / "delivered.json").read_text("utf-8"))
    return Run(seconds, usage.ru_utime + usage.ru_stime, receipt)


def cpu_seconds(process: subprocess.Popen[str]) -> float:
    times = psutil.Process(process.pid).cpu_times()
    return float(times.user + times.system)


def assert_same_items(stub: DynamoDBStub, prefix: str, days: Days) -> None:
    """The server has exactly these items."""
    for table in table_keys():
        wanted = [
            {name: dynamodb_json(value) for name, value in item.items()}
            for tables in days.values()
            for item in tables.get(table, [])
        ]
        assert in_order(stub.items(prefix + table)) == in_order(wanted)


def in_order(items: list[Item]) -> list[tuple[tuple[str, Any], ...]]:
    return sorted((tuple((name, comparable(item[name])) for name in sorted(item)) for item in items), key=repr)
