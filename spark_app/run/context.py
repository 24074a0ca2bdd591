"""What every step of a command needs: session, settings, lake, clock, run id, result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from pyspark.sql import SparkSession

from spark_app.config.settings import Settings
from spark_app.lake.tables import Lake
from spark_app.log import Steps
from spark_app.run.forgotten import Forgotten, read_forgotten
from spark_app.run.result import RunResult


@dataclass(frozen=True)
class Context:
    """The edges of one run; transformations don't get it. `start_spark` gives the same session each time."""

    start_spark: Callable[[], SparkSession]
    settings: Settings
    lake: Lake
    run_id: str
    result: RunResult
    steps: Steps

    @property
    def spark(self) -> SparkSession:
        """The session, which is started where it is first needed: a run that finds nothing new needs none."""
        return self.start_spark()

    @property
    def now(self) -> datetime:
        """The current time, in UTC."""
        return datetime.now(UTC)

    @cached_property
    def forgotten(self) -> Forgotten:
        """Whom this lake has forgotten, as of when it was first asked for."""
        return read_forgotten(self.lake, self.settings)

    def metadata(self, step: str, **fields: Any) -> dict[str, Any]:
        """What a Delta commit says of itself."""
        return {"run_id": self.run_id, "step": step, **fields}
