"""A write that succeeds and then reports failure: S3's puts, Delta's log, DynamoDB's batches and updates.

Those of a lake on a disk are in `lives.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.faults.bucket import RunOfDag
from tests.faults.conftest import InS3, Tell, Undisturbed
from tests.faults.s3_proxy import LossyS3
from tests.support.dynamodb_proxy import DROP_REPLY, PASS, Decide, FaultyDynamoDB, Request
from tools.dynamodb_local import DynamoDBLocal

pytestmark = [pytest.mark.integration, pytest.mark.timeout(3600)]
OPERATIONS = {"BatchWriteItem", "UpdateItem", "PutItem", "TransactWriteItems", "CreateTable"}


def every_other(operation: str | None = None) -> Decide:
    """Lose the reply to every other write, the first among them; of one kind, or of all."""

    def decide(request: Request) -> Any:
        wanted = request.operation == operation if operation else request.operation in OPERATIONS
        return DROP_REPLY if wanted and request.number % 2 == 0 else PASS

    return decide


def test_dynamodb_in_all_tasks(
    new_run: Callable[..., RunOfDag], dynamodb_server: DynamoDBLocal, undisturbed_tasks: dict[str, Any], tell: Tell
) -> None:
    with FaultyDynamoDB(dynamodb_server.url, every_other()) as proxy:
        run = new_run(AWS_ENDPOINT_URL_DYNAMODB=proxy.url)
        run.end_well()
    end = run.end()
    for operation in sorted(OPERATIONS):
        lost = -(-proxy.count(operation) // 2)
        tell(f"DynamoDB {operation}", "no restart", equal=end == undisturbed_tasks, count=lost)
        assert lost
    assert end == undisturbed_tasks


def test_s3_in_all_tasks(
    new_run: Callable[..., RunOfDag], s3_server: str, undisturbed_tasks: dict[str, Any], tell: Tell
) -> None:
    with LossyS3(s3_server) as proxy:
        run = new_run(AWS_ENDPOINT_URL_S3=proxy.url)
        run.end_well()
    end = run.end()
    tell("S3 put, copy, delete of the tasks", "no restart", equal=end == undisturbed_tasks, count=len(proxy.lost))
    assert len(proxy.lost) > 6
    assert end == undisturbed_tasks


@pytest.mark.long
@pytest.mark.s3
def test_application_on_s3(
    in_s3: InS3, undisturbed: Undisturbed, s3_server: str, finish: Callable[[int], list[str]], tell: Tell
) -> None:
    """The lock, the log of each table, all state files and the export: each write's reply is lost once, none fails."""
    with LossyS3(s3_server, in_s3.is_lake) as proxy:
        place = in_s3.place(proxy.url)
        place.run_well(["run", "--input", str(undisturbed.sample.first)], "first")
    in_s3.download()
    differences = finish(0)
    logs = [request for request in proxy.lost if "_delta_log/" in request and request.endswith(".json")]
    assert len(logs) >= 12
    assert any("lake.lock" in request for request in proxy.lost)
    tell("S3A: Delta's log", "no restart", equal=not differences, count=len(logs))
    tell("S3: other puts", "no restart", equal=not differences, count=len(proxy.lost) - len(logs))
    assert differences == []
