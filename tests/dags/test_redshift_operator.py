"""Loads of Redshift: the real operator, hook and trigger, against a server that speaks the Data API."""

import asyncio
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "dags"))

from redshift_load_operator import AirflowException, RedshiftLoadOperator

from tests.support.redshift import DataApiServer, Outcome, data_api

try:
    from airflow.sdk.exceptions import TaskDeferred
except ImportError:
    from airflow.exceptions import TaskDeferred

GOOD, REFUSED = ["LOCK days", "SELECT 1"], ["LOCK days", "/* a key is there twice */\nSELECT 1/0"]


def run(statements: Sequence[str]) -> Outcome:
    failed = next((place for place, sql in enumerate(statements) if "1/0" in sql), None)
    return Outcome([[] for _ in statements], failed, "division by zero")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[DataApiServer]:
    with data_api(run) as redshift:
        values = {"AWS_ENDPOINT_URL": redshift.url, "AWS_DEFAULT_REGION": "eu-central-1"}
        for name, value in {**values, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}.items():
            monkeypatch.setenv(name, value)
        yield redshift


def operator(sql: list[str], *, deferrable: bool) -> RedshiftLoadOperator:
    return RedshiftLoadOperator(
        task_id="load_redshift",
        sql=sql,
        workgroup_name="kpis",
        database="d",
        aws_conn_id=None,
        poll_interval=1,
        deferrable=deferrable,
    )


def event_of(trigger: Any) -> dict[str, Any]:
    """What the triggerer hands to the task."""

    async def first() -> Any:
        async for event in trigger.run():
            return event.payload
        return None

    return dict(asyncio.run(first()))


CONTEXT: dict[str, Any] = {"ti": SimpleNamespace(xcom_push=lambda **_: None, stats_tags={})}


def test_a_load_is_one_transaction_that_no_worker_waits_for(server: DataApiServer) -> None:
    task = operator(GOOD, deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(CONTEXT)
    event = event_of(deferred.value.trigger)
    assert event["status"] == "success"
    operator(GOOD, deferrable=True).execute_complete(CONTEXT, event)
    (request,) = (request for action, request in server.requests if action == "BatchExecuteStatement")
    assert (request["Sqls"], request["WorkgroupName"], request["Database"]) == (GOOD, "kpis", "d")


WHY = "refused the load, nothing was changed: a key is there twice"


@pytest.mark.usefixtures("server")
def test_a_failure_says_why() -> None:
    with pytest.raises(AirflowException, match=WHY):
        operator(REFUSED, deferrable=False).execute(CONTEXT)
    with pytest.raises(TaskDeferred) as deferred:
        operator(REFUSED, deferrable=True).execute(CONTEXT)
    event = event_of(deferred.value.trigger)
    with pytest.raises(AirflowException, match=WHY):
        operator(REFUSED, deferrable=True).execute_complete(CONTEXT, event)
