"""Make DynamoDB tables that are missing, check those that are there, and get items by their keys."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from kpi_common.aws import error_code
from kpi_common.errors import AwsError
from kpi_common.layout import IndexLayout, KeyAttribute, TableLayout
from kpi_common.log import log
from kpi_pipeline.dynamodb.items import Item
from kpi_pipeline.errors import TableError
from kpi_pipeline.settings import DeliverySettings, TableSettings

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

STATUS_KEY = "date"
FILE_KEY = "filename"
POLL_SECONDS = 1.0
TIMEOUT_SECONDS = 600.0
MAX_GET_KEYS = 100
GET_TRIES = 15


def status_layout(settings: DeliverySettings) -> TableLayout:
    """Return the layout of the status table."""
    return TableLayout(settings.tables.status, KeyAttribute(STATUS_KEY))


def processed_streams_layout(settings: DeliverySettings) -> TableLayout:
    """Return the layout of the file ledger."""
    return TableLayout(settings.tables.processed_streams, KeyAttribute(FILE_KEY))


def ensure_table(client: DynamoDBClient, layout: TableLayout, settings: TableSettings) -> bool:
    """Make the table if it is missing, wait until it and its indexes can be used, and check its keys.

    Returns:
        Whether the table was made here.

    Raises:
        TableError: the table has other keys, lacks an index, or doesn't get ready in time.
    """
    name = f"{settings.prefix}{layout.name}"
    deadline = time.monotonic() + TIMEOUT_SECONDS
    made = False
    while True:
        table = _describe(client, name)
        state = "missing" if table is None else str(table["TableStatus"])
        if table is None:
            made = _create(client, name, layout, settings) or made
        elif state != "DELETING":
            _check(table, name, layout)
            if state != "CREATING" and _indexes_usable(table, layout):
                return made
        if time.monotonic() > deadline:
            raise TableError(f"table {name} is still not ready after {TIMEOUT_SECONDS:.0f} s (it is {state})")
        if table is not None:
            time.sleep(POLL_SECONDS)


def _describe(client: DynamoDBClient, name: str) -> dict[str, Any] | None:
    try:
        return dict(client.describe_table(TableName=name)["Table"])
    except ClientError as error:
        if error_code(error) == "ResourceNotFoundException":
            return None
        raise


def _create(client: DynamoDBClient, name: str, layout: TableLayout, settings: TableSettings) -> bool:
    keys = {key.name: key.type for key in (*layout.keys, *(key for index in layout.indexes for key in index.keys))}
    definition: dict[str, Any] = {
        "TableName": name,
        "KeySchema": _key_schema(layout),
        "AttributeDefinitions": [{"AttributeName": key, "AttributeType": kind} for key, kind in keys.items()],
        "BillingMode": settings.billing_mode,
    }
    indexes: list[dict[str, Any]] = [
        {"IndexName": index.name, "KeySchema": _key_schema(index), "Projection": {"ProjectionType": "ALL"}}
        for index in layout.indexes
    ]
    if indexes:
        definition["GlobalSecondaryIndexes"] = indexes
    if settings.billing_mode == "PROVISIONED":
        units = {"ReadCapacityUnits": settings.read_units, "WriteCapacityUnits": settings.write_units}
        for part in (definition, *indexes):
            part["ProvisionedThroughput"] = units
    try:
        client.create_table(**definition)
    except ClientError as error:
        if error_code(error) == "ResourceInUseException":
            return False  # somebody else is making it at this moment, or the answer to our request was lost
        raise
    log("table made", table=name, billing=settings.billing_mode)
    return True


def _key_schema(layout: TableLayout | IndexLayout) -> list[dict[str, str]]:
    kinds = ("HASH", "RANGE")
    return [{"AttributeName": key.name, "KeyType": kind} for key, kind in zip(layout.keys, kinds, strict=False)]


def _check(table: dict[str, Any], name: str, layout: TableLayout) -> None:
    types = {entry["AttributeName"]: entry["AttributeType"] for entry in table["AttributeDefinitions"]}
    problems = _key_differences("keys", table["KeySchema"], types, layout)
    indexes = {index["IndexName"]: index for index in table.get("GlobalSecondaryIndexes", [])}
    for index in layout.indexes:
        if index.name not in indexes:
            problems.append(f"the index {index.name} is missing (wanted: {_described(index)})")
            continue
        problems += _key_differences(f"keys of index {index.name}", indexes[index.name]["KeySchema"], types, index)
        if indexes[index.name]["Projection"]["ProjectionType"] != "ALL":
            problems.append(f"the index {index.name} does not hold all attributes")
    if problems:
        raise TableError(
            f"table {name} is there already with another layout: {'; '.join(problems)}. "
            "Change the layout in conf/dynamodb, use another --table-prefix, or drop the table."
        )


def _key_differences(
    what: str, schema: list[dict[str, str]], types: dict[str, str], layout: TableLayout | IndexLayout
) -> list[str]:
    by_kind = {entry["KeyType"]: entry["AttributeName"] for entry in schema}
    names = [by_kind[kind] for kind in ("HASH", "RANGE") if kind in by_kind]
    found = ", ".join(f"{key} {types[key]}" for key in names)
    return [] if found == _described(layout) else [f"{what} are ({found}), wanted ({_described(layout)})"]


def _described(layout: TableLayout | IndexLayout) -> str:
    return ", ".join(f"{key.name} {key.type}" for key in layout.keys)


def _indexes_usable(table: dict[str, Any], layout: TableLayout) -> bool:
    wanted = {index.name for index in layout.indexes}
    return all(
        index.get("IndexStatus", "ACTIVE") in ("ACTIVE", "UPDATING")
        for index in table.get("GlobalSecondaryIndexes", [])
        if index["IndexName"] in wanted
    )


def get_items(client: DynamoDBClient, table: str, keys: Sequence[Item]) -> Iterator[Item]:
    """Yield those of the items that are there, read consistently.

    Raises:
        AwsError: DynamoDB handed keys back as unprocessed again and again.
    """
    for start in range(0, len(keys), MAX_GET_KEYS):
        request: Any = {table: {"Keys": keys[start : start + MAX_GET_KEYS], "ConsistentRead": True}}
        for attempt in range(GET_TRIES):
            answer: Any = client.batch_get_item(RequestItems=request)
            yield from answer["Responses"].get(table, [])
            request = answer.get("UnprocessedKeys")
            if not request:
                break
            time.sleep(random.uniform(0, min(0.05 * 2**attempt, 5)))  # noqa: S311
        else:
            raise AwsError(f"{table}: DynamoDB handed back keys to read as unprocessed {GET_TRIES} times")
