"""What every step of a command needs: session, settings, lake, clock, run id, result."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pyspark.sql import SparkSession

from spark_app.lake import Lake
from spark_app.log import Steps
from spark_app.result import RunResult
from spark_app.settings import Settings


@dataclass(frozen=True)
class Context:
    """The edges of one run; transformations don't get it."""

    spark: SparkSession
    settings: Settings
    lake: Lake
    run_id: str
    result: RunResult
    steps: Steps

    @property
    def now(self) -> datetime:
        """The current time, in UTC."""
        return datetime.now(UTC)

    def metadata(self, step: str, **fields: Any) -> dict[str, Any]:
        """What a Delta commit says of itself."""
        return {"run_id": self.run_id, "step": step, **fields}
