"""The provider's `RedshiftDataOperator`, whose failures say which statement failed, and why."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from airflow.providers.amazon.aws.operators.redshift_data import RedshiftDataOperator
from dag_support import AirflowException

from kpi_pipeline.redshift.data_api import failure_of


class RedshiftLoadOperator(RedshiftDataOperator):
    """Runs a transaction of `kpi_pipeline.redshift.load`."""

    def execute(self, context: Any) -> Any:
        with self._with_reason():
            return super().execute(context)

    def execute_complete(self, context: Any, event: dict[str, Any] | None = None) -> Any:
        with self._with_reason():
            return super().execute_complete(context, event)

    @contextmanager
    def _with_reason(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            failed = re.search(r"Statement (\S+) terminated", str(error))
            if failed is None:
                raise
            raise AirflowException(failure_of(self.hook.conn.describe_statement(Id=failed[1]))) from error
