"""Clients of DynamoDB."""

from __future__ import annotations

from typing import TYPE_CHECKING

from botocore.config import Config

from kpi_common.aws import ATTEMPTS, client_config, new_client

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient


def dynamodb_client(endpoint_url: str | None = None, connections: int = 10, attempts: int = ATTEMPTS) -> DynamoDBClient:
    """Return a client that retries by itself (standard mode: exponential backoff with jitter)."""
    client: DynamoDBClient = new_client("dynamodb", endpoint_url, client_config(connections, attempts))
    return client


def batch_client(endpoint_url: str | None = None, connections: int = 10) -> DynamoDBClient:
    """Return a client for BatchWriteItem alone: it checks no parameters and retries nothing, the batch writer does."""
    config = client_config(connections, attempts=1).merge(Config(parameter_validation=False))
    client: DynamoDBClient = new_client("dynamodb", endpoint_url, config)
    return client
