"""Clients of DynamoDB."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import botocore
from botocore.config import Config

from kpi_common.aws import ATTEMPTS, client_config, new_client

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

JSON_TYPE = "application/x-amz-json"


def dynamodb_client(endpoint_url: str | None = None, connections: int = 10, attempts: int = ATTEMPTS) -> DynamoDBClient:
    """Return a client that retries by itself (standard mode: exponential backoff with jitter)."""
    client: DynamoDBClient = new_client("dynamodb", endpoint_url, client_config(connections, attempts))
    return client


def batch_client(endpoint_url: str | None = None, connections: int = 10) -> DynamoDBClient:
    """Return a client for BatchWriteItem alone: it checks no parameters and retries nothing, the batch writer does."""
    # With a user agent of our own, botocore doesn't put one together anew for each request (an eighth of its time).
    lean = Config(parameter_validation=False, user_agent=f"music-streaming-kpis Botocore/{botocore.__version__}")
    client: DynamoDBClient = new_client("dynamodb", endpoint_url, client_config(connections, attempts=1).merge(lean))
    return client


def keep_items_as_json(client: DynamoDBClient) -> None:
    """Let the client's Query return items as they came; botocore's parser takes three times as long for them.

    Binary values stay base64 text, as in an export.
    """
    client.meta.events.register("before-parse.dynamodb.Query", _take_items_out)


def _take_items_out(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: object) -> None:
    kind = str(response_dict["headers"].get("content-type", ""))
    if response_dict["status_code"] != 200 or not kind.startswith(JSON_TYPE):
        return
    with suppress(ValueError):  # which botocore tells in its own way
        answer = json.loads(response_dict["body"])
        customized_response_dict["Items"] = answer.pop("Items", [])
        response_dict["body"] = json.dumps(answer).encode()
