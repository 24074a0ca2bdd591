"""Fixtures for tests that use DynamoDB; a conftest.py imports the ones that its tests ask for."""

import uuid
from collections.abc import Callable, Iterator

import boto3
import pytest
from mypy_boto3_dynamodb import DynamoDBClient

from tests.support.dynamodb_proxy import Decide, FaultyDynamoDB
from tools.dynamodb_local import CREDENTIALS, DynamoDBLocal


@pytest.fixture(scope="session")
def dynamodb_server() -> Iterator[DynamoDBLocal]:
    """DynamoDB Local in memory, one for all tests of a process."""
    with DynamoDBLocal() as server:
        yield server


@pytest.fixture
def dynamodb(dynamodb_server: DynamoDBLocal, monkeypatch: pytest.MonkeyPatch) -> DynamoDBClient:
    """A client of the server; the environment's AWS settings name it too, for this test and what it starts."""
    for name, value in dynamodb_server.environment.items():
        monkeypatch.setenv(name, value)
    return boto3.client("dynamodb", endpoint_url=dynamodb_server.url, **CREDENTIALS)


@pytest.fixture
def table_prefix() -> str:
    """A prefix that keeps a test's tables apart from all others."""
    return f"t{uuid.uuid4().hex[:8]}-"


@pytest.fixture
def faulty_dynamodb(dynamodb_server: DynamoDBLocal) -> Iterator[Callable[[Decide], FaultyDynamoDB]]:
    """Makes a proxy in front of the server; the argument decides what happens to each request."""
    proxies: list[FaultyDynamoDB] = []

    def make(decide: Decide) -> FaultyDynamoDB:
        proxies.append(FaultyDynamoDB(dynamodb_server.url, decide))
        return proxies[-1].__enter__()

    yield make
    for proxy in proxies:
        proxy.__exit__(None, None, None)
