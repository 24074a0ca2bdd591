"""boto3 clients and AWS's errors in plain words.

Region, endpoints and credentials come from the ordinary AWS environment (`AWS_REGION`, `AWS_ENDPOINT_URL_DYNAMODB`, …).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Callable

import boto3
import botocore
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
)

from kpi_pipeline.errors import AwsError, UsageError

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 20
ATTEMPTS = 9
JSON_TYPE = "application/x-amz-json"


def dynamodb_client(endpoint_url: str | None = None, connections: int = 10, attempts: int = ATTEMPTS) -> DynamoDBClient:
    """Return a client that retries by itself (standard mode: exponential backoff with jitter)."""
    with _plain_client_errors("DynamoDB"):
        return _session().client("dynamodb", endpoint_url=endpoint_url, config=_config(connections, attempts))


def batch_client(endpoint_url: str | None = None, connections: int = 10) -> DynamoDBClient:
    """Return a client for BatchWriteItem alone: it checks no parameters and retries nothing, the batch writer does."""
    # With a user agent of our own, botocore doesn't put one together anew for each request (an eighth of its time).
    lean = Config(parameter_validation=False, user_agent=f"music-streaming-kpis Botocore/{botocore.__version__}")
    config = _config(connections, attempts=1).merge(lean)
    with _plain_client_errors("DynamoDB"):
        return _session().client("dynamodb", endpoint_url=endpoint_url, config=config)


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


def s3_client() -> S3Client:
    """Return a client for the lake."""
    with _plain_client_errors("S3"):
        return _session().client("s3", config=_config())


def service_client(service: str) -> Any:
    """Return a client of another service (`sns`, `emr-serverless`)."""
    with _plain_client_errors(service):
        new_client: Any = _session().client
        return new_client(service, config=_config())


def use_sessions(new_session: Callable[[], boto3.session.Session]) -> None:
    """Make all clients from here on with sessions of this function, such as those of an Airflow connection."""
    global _new_session  # noqa: PLW0603 (one setting for the process, as the AWS environment is)
    _new_session = new_session


def _environment_session() -> boto3.session.Session:
    return boto3.session.Session(region_name=os.environ.get("AWS_REGION"))


_new_session: Callable[[], boto3.session.Session] = _environment_session


def _session() -> boto3.session.Session:
    # One for each client: sessions are not made for several threads.
    return _new_session()


def _config(connections: int = 10, attempts: int = ATTEMPTS) -> Config:
    return Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        max_pool_connections=connections,
        retries={"mode": "standard", "total_max_attempts": attempts},
    )


@contextmanager
def plain_aws_errors(what: str) -> Iterator[None]:
    """Raise what boto3 raises as an error that says in one line what happened.

    Raises:
        UsageError: no credentials or no region are set.
        AwsError: AWS refused the request or can't be reached.
    """
    try:
        yield
    except (NoCredentialsError, PartialCredentialsError, NoRegionError) as error:
        raise UsageError(f"{what}: {error} (set the usual AWS environment variables)") from error
    except EndpointConnectionError as error:
        raise AwsError(f"{what}: can't be reached: {error}") from error
    except ClientError as error:
        answer = error.response.get("Error", {})
        raise AwsError(f"{what}: {answer.get('Code', 'error')}: {answer.get('Message', error)}") from error
    except BotoCoreError as error:
        raise AwsError(f"{what}: {error}") from error


@contextmanager
def _plain_client_errors(what: str) -> Iterator[None]:
    with plain_aws_errors(what):
        try:
            yield
        except ValueError as error:  # what botocore says of an endpoint that is no URL
            raise UsageError(f"{what}: {error}") from error


def error_code(error: ClientError) -> str:
    """Return AWS's name of the error."""
    return str(error.response.get("Error", {}).get("Code", ""))
