"""Secrets that settings name: in Secrets Manager, or in a file by its whole path."""

from __future__ import annotations

from kpi_common.aws import new_client, plain_aws_errors
from kpi_common.files import storage_for
from spark_app.errors import UsageError


def read_secret(setting: str, name: str) -> bytes:
    """Return the content of the secret that a setting names.

    Raises:
        UsageError: there is no such file.
        AwsError: Secrets Manager doesn't give it.
    """
    if name.startswith("/"):
        data = storage_for(name).read(name)
        if data is None:
            raise UsageError(f"{setting} {name}: there is no such file")
        return data
    with plain_aws_errors(f"secret {name} ({setting})"):
        secret = new_client("secretsmanager").get_secret_value(SecretId=name)
    return bytes(secret["SecretBinary"]) if "SecretBinary" in secret else str(secret["SecretString"]).encode()
