"""Sessions and clients of boto3, and AWS's errors in plain words.

Region, endpoints and credentials come from the ordinary AWS environment (`AWS_REGION`, `AWS_ENDPOINT_URL_S3`, …), or
from the sessions that `use_sessions` names.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
)
from botocore.loaders import Loader, create_loader
from botocore.session import get_session

from kpi_common.errors import AwsError, UsageError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 20
S3_READ_TIMEOUT_S = 60  # a copy of gigabytes answers late
ATTEMPTS = 9


@lru_cache(maxsize=1)
def _service_models() -> Loader:
    """What botocore knows of AWS's services, megabytes of JSON: read once, and not for each session anew."""
    return create_loader(os.environ.get("AWS_DATA_PATH"))


def _environment_session() -> boto3.session.Session:
    core = get_session()
    core.register_component("data_loader", _service_models())
    return boto3.session.Session(botocore_session=core, region_name=os.environ.get("AWS_REGION"))


_new_session: Callable[[], boto3.session.Session] = _environment_session


def use_sessions(new_session: Callable[[], boto3.session.Session]) -> None:
    """Make all clients from here on with sessions of this function, such as those of an Airflow connection."""
    global _new_session  # noqa: PLW0603 (one setting for the process, as the AWS environment is)
    _new_session = new_session
    shared_s3_client.cache_clear()


def new_client(service: str, endpoint_url: str | None = None, config: Config | None = None) -> Any:
    """Return a client of a service that retries by itself, of a session of its own: sessions serve one thread only.

    Raises:
        UsageError: no region is set, or the endpoint is no URL.
    """
    name = {"dynamodb": "DynamoDB", "s3": "S3"}.get(service, service)
    with plain_aws_errors(name):
        make: Any = _new_session().client
        try:
            return make(service, endpoint_url=endpoint_url, config=config or client_config())
        except ValueError as error:  # what botocore says of an endpoint that is no URL
            raise UsageError(f"{name}: {error}") from error


@lru_cache(maxsize=1)
def shared_s3_client() -> S3Client:
    """Return the process's client of S3, made when it is first needed; threads may share it."""
    s3: S3Client = new_client("s3", config=client_config(connections=32, read_timeout=S3_READ_TIMEOUT_S))
    return s3


def credential_variables() -> dict[str, str]:
    """Return the credentials that boto3 finds, as the environment variables in which others look for them.

    Raises:
        UsageError: there are none.
    """
    credentials = boto3.session.Session().get_credentials()
    if credentials is None:
        raise UsageError("s3:// needs AWS credentials, found in none of the usual places (AWS_PROFILE, …)")
    frozen = credentials.get_frozen_credentials()
    found = {
        "AWS_ACCESS_KEY_ID": frozen.access_key,
        "AWS_SECRET_ACCESS_KEY": frozen.secret_key,
        "AWS_SESSION_TOKEN": frozen.token,
    }
    return {name: value for name, value in found.items() if value}


def client_config(connections: int = 10, attempts: int = ATTEMPTS, read_timeout: float = READ_TIMEOUT_S) -> Config:
    """Return the settings of a client: standard retries (exponential backoff with jitter), limits of waiting in s."""
    return Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=read_timeout,
        max_pool_connections=connections,
        retries={"mode": "standard", "total_max_attempts": attempts},
    )


@contextmanager
def plain_aws_errors(what: str) -> Iterator[None]:
    """Raise what boto3 raises as an error that says in one line what happened to `what`.

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


def error_code(error: ClientError) -> str:
    """Return AWS's name of the error."""
    return str(error.response.get("Error", {}).get("Code", ""))
