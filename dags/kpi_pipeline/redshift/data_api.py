"""Redshift's Data API: statements that run as one transaction, their results, and why they failed."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from kpi_common.aws import new_client, plain_aws_errors
from kpi_pipeline.errors import RedshiftError
from kpi_pipeline.settings import RedshiftSettings

FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 5.0
FINISHED, ENDED = "FINISHED", ("FINISHED", "FAILED", "ABORTED")


class DataApi:
    """A client for one database."""

    def __init__(self, settings: RedshiftSettings) -> None:
        self._client = new_client("redshift-data")
        # workgroup_name, as the provider's operator has it, is WorkgroupName here
        self._target = {name.title().replace("_", ""): value for name, value in settings.target.items()}

    def run(self, statements: Sequence[str]) -> str:
        """Run statements as one transaction and return its id when it has finished.

        Raises:
            RedshiftError: a statement failed, so nothing was done.
        """
        with plain_aws_errors("Redshift Data API"):
            statement: str = self._client.batch_execute_statement(Sqls=list(statements), **self._target)["Id"]
            try:
                description = self._wait(statement)
            except BaseException:
                self._client.cancel_statement(Id=statement)
                raise
        if description["Status"] != FINISHED:
            raise RedshiftError(failure_of(description))
        return statement

    def rows(self, statement: str, number: int) -> list[list[Any]]:
        """Return the rows of one statement of a transaction, counted from 1; decimals and dates are texts."""
        with plain_aws_errors("Redshift Data API"):
            pages = self._client.get_paginator("get_statement_result").paginate(Id=f"{statement}:{number}")
            records = [record for page in pages for record in page["Records"]]
        return [[None if "isNull" in field else next(iter(field.values())) for field in record] for record in records]

    def _wait(self, statement: str) -> dict[str, Any]:
        wait = FIRST_WAIT_S
        while True:
            description: dict[str, Any] = self._client.describe_statement(Id=statement)
            if description["Status"] in ENDED:
                return description
            time.sleep(wait)
            wait = min(wait * 1.5, LONGEST_WAIT_S)


def failure_of(description: Mapping[str, Any]) -> str:
    """Say in a line why a transaction failed.

    Args:
        description: what DescribeStatement answers.
    """
    failed = next((sub for sub in description.get("SubStatements", []) if sub["Status"] == "FAILED"), description)
    sql, error = str(failed.get("QueryString", "")), failed.get("Error") or description.get("Error", "")
    checked = re.match(r"/\* (.+?) \*/", sql)
    if checked:
        return f"Redshift refused the load, nothing was changed: {checked.group(1)}"
    hint = " (what COPY stumbled over stands in SYS_LOAD_ERROR_DETAIL)" if sql.startswith("COPY") else ""
    return f"Redshift, statement {description['Status'].lower()}, nothing was changed: {error}{hint}; in: {sql[:200]}"
