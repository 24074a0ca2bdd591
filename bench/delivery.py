"""Delivery to a server that answers each request after 10 ms: our writer beside boto3's `batch_writer`.

Only writing is compared, as `batch_writer` does no more: it neither looks at what is there nor reads it back. The
whole delivery (`kpi_pipeline deliver`) is measured apart: the first one, one that changes 1 % of the items, and one of
the same again, each with the items that reached the server.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.measure import BenchError, Measurement, measure
from kpi_pipeline.dynamodb.items import Item
from tests.support.dynamodb_stub import DynamoDBStub
from tests.support.export_files import dynamodb_json
from tests.support.large_export import Days, change_every, kpi_items, table_keys, write_large_export
from tools.dynamodb_local import DynamoDBLocal
from tools.toolchain import BUILD, ROOT, say

ITEMS = 100_000
DELAY_S = 0.01
CHANGED_STEP = 100  # every one of so many items
WAYS = {"ours": "our batch writer", "ours-2": "in 2 tasks, as in the DAG", "boto3": "boto3 batch_writer"}


@dataclass(frozen=True)
class Write:
    """One run of a way: seconds of wall clock and CPU from the first item to the last answer."""

    seconds: float
    cpu_seconds: float
    memory_mb: float
    requests: int


def delivery(options: argparse.Namespace) -> dict[str, Any]:
    """100,000 items: writing beside boto3's `batch_writer`, then whole deliveries."""
    folder = BUILD / "bench" / "delivery"
    lake = folder / "lake"
    shutil.rmtree(folder, ignore_errors=True)
    lake.mkdir(parents=True)
    days = kpi_items(ITEMS)
    write_large_export(lake, 1, days)
    writes: dict[str, list[Write]] = {way: [] for way in WAYS}
    for number in range(options.rounds):
        for way, name in WAYS.items():
            writes[way].append(write(way, folder, days if number == 0 else None))
            say(f"round {number + 1} of {options.rounds}: {name}: {writes[way][-1].seconds:.1f} s")
    deliveries = whole_deliveries(folder, days)
    ratios = show(writes, deliveries)
    return {
        "items": ITEMS,
        "delay_seconds": DELAY_S,
        "runs": {way: [asdict(run) for run in of] for way, of in writes.items()},
        "boto3 ÷ this": ratios,
        "deliveries": deliveries,
    }


def write(way: str, folder: Path, expected: Days | None) -> Write:
    """Write all items one way to an empty server; with `expected`, compare what it has then."""
    log = folder / f"{way}.log"
    with DynamoDBStub(table_keys(), delay=DELAY_S) as stub:
        command = [sys.executable, "-m", "bench.delivery_ways", way, str(folder / "lake"), "run-1", stub.url]
        run = measure(command, _environment(), log)
        counts = stub.counts()
        if counts["puts"] != ITEMS:
            raise BenchError(f"{way}: the server took {counts['puts']} items, not {ITEMS}")
        if expected is not None:
            check_items(stub, expected)
    told = json.loads(log.read_text("utf-8").splitlines()[-1])
    return Write(**told, memory_mb=run.memory_mb, requests=counts["requests"]["BatchWriteItem"])


def check_items(stub: DynamoDBStub, expected: Days) -> None:
    """Raise BenchError unless the server has exactly these items."""
    for table in table_keys():
        wanted = [item for of_day in expected.values() for item in of_day.get(table, [])]
        if _plain(stub.items(table)) != _plain([_dynamodb(item) for item in wanted]):
            raise BenchError(f"the server has other items of {table} than the export")


def whole_deliveries(folder: Path, days: Days) -> dict[str, dict[str, Any]]:
    """Deliver everything, then with some items changed, then the same again."""
    lake = folder / "whole"
    shutil.copytree(folder / "lake", lake)
    found: dict[str, dict[str, Any]] = {}
    with DynamoDBLocal() as server, DynamoDBStub(table_keys(), delay=DELAY_S, upstream=server.url) as stub:
        environment = _environment() | {"AWS_ENDPOINT_URL_DYNAMODB": stub.url}

        def deliver(name: str, run_id: str, changed: int) -> None:
            stub.forget()
            command = [sys.executable, "-m", "kpi_pipeline", "deliver", "--lake", str(lake), "--run-id", run_id]
            run = measure(command, environment, folder / f"{run_id}.log")
            found[name] = _told(run, stub.counts())
            if found[name]["puts"] != changed:
                raise BenchError(f"{name}: {found[name]['puts']} items put, not {changed}")

        deliver("everything", "run-1", ITEMS)
        changed = change_every(CHANGED_STEP, days)
        write_large_export(lake, 2, days)
        deliver("1 % changed", "run-2", changed)
        check_items(stub, days)
        deliver("the same again", "run-2", 0)
    return found


def show(writes: Mapping[str, Sequence[Write]], deliveries: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Print both tables and return how many times as long as each way boto3's writer takes."""
    from rich.console import Console
    from rich.table import Table

    medians = {way: statistics.median(run.seconds for run in of) for way, of in writes.items()}
    ratios = {way: medians["boto3"] / seconds for way, seconds in medians.items()}
    title = f"{ITEMS:,} items to a server that answers after {DELAY_S * 1000:.0f} ms"
    table = Table("writing", "seconds (median, range)", "CPU s", "requests", "boto3 ÷ this", "peak MB", title=title)
    for way, of in writes.items():
        seconds = [run.seconds for run in of]
        table.add_row(
            WAYS[way],
            f"{medians[way]:.1f} ({min(seconds):.1f}–{max(seconds):.1f})",
            f"{statistics.median(run.cpu_seconds for run in of):.1f}",
            f"{of[-1].requests:,}",
            f"{ratios[way]:.1f}",
            f"{max(run.memory_mb for run in of):,.0f}",
        )
    whole = Table("whole delivery, with reading back", "seconds", "CPU s", "items put", "requests", "peak MB")
    for name, run in deliveries.items():
        figures = [f"{run[key]:,}" for key in ("puts", "requests")]
        whole.add_row(name, f"{run['seconds']:.1f}", f"{run['cpu_seconds']:.1f}", *figures, f"{run['memory_mb']:,.0f}")
    console = Console()
    console.print(table)
    console.print(whole)
    return ratios


def _told(run: Measurement, counts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **asdict(run),
        "puts": counts["puts"],
        "requests": sum(counts["requests"].values()),
        "requests by operation": counts["requests"],
    }


def _environment() -> dict[str, str]:
    python_path = os.pathsep.join([str(ROOT), str(ROOT / "dags")])
    credentials = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench", "AWS_REGION": "eu-central-1"}
    return {**os.environ, **credentials, "AWS_DEFAULT_REGION": "eu-central-1", "PYTHONPATH": python_path}


def _dynamodb(item: Mapping[str, Any]) -> Item:
    return {name: dynamodb_json(value) for name, value in item.items()}


def _plain(items: Sequence[Mapping[str, Any]]) -> list[str]:
    from kpi_pipeline.dynamodb.items import comparable

    return sorted(
        json.dumps({k: comparable(v) for k, v in item.items()}, sort_keys=True, default=str) for item in items
    )
