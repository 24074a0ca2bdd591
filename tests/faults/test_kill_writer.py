"""The batch writer's command is killed; the next one waits until the dead one's lease is over, and goes on."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from mypy_boto3_dynamodb import DynamoDBClient

from tests.faults.bucket import BEFORE, NOW, QUICK, TASKS, RunOfDag
from tests.faults.conftest import Tell
from tests.faults.harness import KILLED, Plan, Process, Workplace
from tests.integration.delivery_helpers import expected, kpis, run_delivery, statuses
from tests.support.dynamodb_proxy import DROP_REQUEST, PASS, Fault, FaultyDynamoDB, Request
from tests.support.export_files import write_export
from tools.dynamodb_local import DynamoDBLocal
from tools.spark_submit import ROOT

pytestmark = [pytest.mark.integration, pytest.mark.long]
POINTS = [
    ("UpdateItem take: before", 1),
    ("UpdateItem take: after", 1),
    ("Query: after", 3),
    ("TransactWriteItems writing: after", 2),
    ("BatchWriteItem: before", 4),
    ("BatchWriteItem: after", 5),
    ("UpdateItem renew: after", 1),
    ("Query: before", 9),
    ("TransactWriteItems complete: before", 1),
    ("TransactWriteItems complete: after", 1),
    ("delivered.json: before", 1),
    ("delivered.json: after", 1),
    ("UpdateItem release: after", 1),
]


@pytest.mark.parametrize(("point", "nth"), POINTS)
def test_killed_writer(
    place: Workplace, dynamodb: DynamoDBClient, table_prefix: str, point: str, nth: int, tell: Tell
) -> None:
    write_export(place.lake, 1, BEFORE)
    run_delivery(place.lake, table_prefix)
    write_export(place.lake, 2, NOW, days_a_part=1)
    deliver = [sys.executable, str(TASKS), "deliver", "--lake", str(place.lake), "--table-prefix", table_prefix]
    environment = {**os.environ, **QUICK, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'dags'}"}
    killed = place.start_process(deliver, environment, Plan(point, nth=nth))
    assert killed.wait() == KILLED, killed.text[-3000:]
    assert killed.trace[-1] == point
    again = place.start_process(deliver, environment, None)
    assert again.wait() == 0, again.text[-3000:]
    equal = kpis(dynamodb, table_prefix) == expected(BEFORE, NOW)
    tell(point, f"number {nth}" if nth > 1 else "", equal=equal)
    assert equal
    assert {(day["state"], day["version"]) for day in statuses(dynamodb, table_prefix).values()} == {("complete", 2)}
    assert (place.lake / "exports" / "run-2" / "delivered.json").exists()


def test_killed_when_half_a_batch_was_taken(
    new_run: Callable[..., RunOfDag], dynamodb_server: DynamoDBLocal, undisturbed_tasks: dict[str, Any], tell: Tell
) -> None:
    started: list[Process] = []

    def decide(request: Request) -> Fault:
        if request.operation != "BatchWriteItem" or request.number < 1:
            return PASS
        if request.number == 1:
            return Fault(unprocessed=12)
        started[0].signal(signal.SIGKILL)
        return DROP_REQUEST

    with FaultyDynamoDB(dynamodb_server.url, decide) as proxy:
        run = new_run(AWS_ENDPOINT_URL_DYNAMODB=proxy.url)
        started.append(run.start())
        assert started[0].wait() == KILLED
    run = replace(run, environment={**run.environment, "AWS_ENDPOINT_URL_DYNAMODB": dynamodb_server.url})
    run.end_well()
    end = run.end()
    tell("BatchWriteItem: 12 of its items were handed back", equal=end == undisturbed_tasks)
    assert end == undisturbed_tasks
