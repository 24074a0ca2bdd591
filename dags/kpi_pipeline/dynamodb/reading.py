"""Read a day's KPIs back from DynamoDB, as an application would."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from kpi_common.conf_files import load_toml
from kpi_common.errors import UsageError
from kpi_pipeline.dynamodb.items import Item
from kpi_pipeline.errors import TableError
from kpi_pipeline.settings import DeliverySettings

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

CONSISTENT_TRIES = 3
WAIT_SECONDS = 0.5


@dataclass(frozen=True)
class Day:
    """What DynamoDB holds for a date; `consistent` tells that no delivery changed it while it was read."""

    date: str
    status: dict[str, Any] | None
    consistent: bool
    tables: dict[str, list[dict[str, Any]]]


def kpi_table_names() -> list[str]:
    """Return the names of the KPI tables in `conf/dynamodb/kpi_tables.toml`."""
    return [table["name"] for table in load_toml("dynamodb/kpi_tables.toml")["tables"].values()]


def read_day(client: DynamoDBClient, settings: DeliverySettings, date: str, tables: Sequence[str] = ()) -> Day:
    """Return a day's items in plain Python values, in the order of their keys.

    The status is read before and after, and the day again when it changed meanwhile or is being written.

    Raises:
        UsageError: a table does not exist.
    """
    names = list(tables) or kpi_table_names()
    status_table = settings.status_table
    for attempt in range(CONSISTENT_TRIES):
        if attempt:
            time.sleep(WAIT_SECONDS)
        before = _items(client, status_table, date)
        items = {name: [plain_item(item) for item in _items(client, settings.table_name(name), date)] for name in names}
        after = _items(client, status_table, date)
        status = plain_item(after[0]) if after else None
        consistent = before == after and status is not None and status["state"] == "complete"
        if consistent or not after:
            break
    return Day(date, status, consistent, items)


def plain_item(item: Item) -> dict[str, Any]:
    """Return an item in plain Python values; whole numbers as int, others as float."""
    return {name: _plain(value) for name, value in item.items()}


def _plain(value: dict[str, Any]) -> Any:
    ((kind, content),) = value.items()
    if kind == "N":
        number = Decimal(content)
        return int(number) if number == number.to_integral_value() else float(number)
    return [_plain(element) for element in content] if kind == "L" else content


def _items(client: DynamoDBClient, table: str, date: str) -> list[Item]:
    try:
        schema = client.describe_table(TableName=table)["Table"]["KeySchema"]
    except client.exceptions.ResourceNotFoundException as error:
        raise UsageError(f"there is no table {table} in DynamoDB here") from error
    partition_key = next(key["AttributeName"] for key in schema if key["KeyType"] == "HASH")
    pages = client.get_paginator("query").paginate(
        TableName=table,
        KeyConditionExpression="#key = :date",
        ExpressionAttributeNames={"#key": partition_key},
        ExpressionAttributeValues={":date": {"S": date}},
        ConsistentRead=True,
    )
    try:
        return [item for page in pages for item in page["Items"]]  # type: ignore[misc]
    except client.exceptions.ClientError as error:
        if "ValidationException" in str(error):
            raise TableError(f"{table} can't be read by date: its partition key is `{partition_key}`") from error
        raise
