"""The figures of a run, from the application's `result.json`, the delivery's receipt and what EMR billed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from kpi_common.quality import quality_score

# What a figure is of. Those of a group that a run has nothing of, such as the delivery's, stay as they were.
Group = Literal["run", "success", "job", "delivery"]
HELP = {
    "run_succeeded": "Whether the last run of the DAG succeeded: 1 or 0",
    "run_ended_timestamp_seconds": "When the last run of the DAG ended",
    "last_success_timestamp_seconds": "When a run of the DAG succeeded last",
    "rows": "Rows of accepted files by what became of them; waiting ones are valid too",
    "files": "Files that the last job looked at, by what became of them",
    "quality_score": "Of 100 rows read by the last job, rejected files included: how many are valid or duplicates",
    "dirty_dates": "Dates whose KPIs the last job computed",
    "job_seconds": "Time of the last job by the clock",
    "step_seconds": "Time of each step of the last job by the clock",
    "cost_usd": "What the last job cost by the prices of the settings",
    "vcpu_hours": "Hours of vCPUs of the last job: estimated by the application, and billed by EMR where it says so",
    "memory_gb_hours": "GB hours of memory of the last job",
    "items": "Items of the last delivery to DynamoDB by table and by what was done",
    "throttled_requests": "Requests of the last delivery after which DynamoDB left something to be sent again",
    "undeliverable_items": "Items of the last delivery that DynamoDB can't hold",
    "delivery_seconds": "Time of the last delivery",
    "complete_through_timestamp_seconds": "Modification time of the newest file that delivered KPIs include",
}


@dataclass(frozen=True)
class Figure:
    """One number; `name` is a key of HELP."""

    group: Group
    name: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def unit(self) -> str:
        """What CloudWatch calls its unit."""
        return "Seconds" if self.name.endswith("_seconds") and "timestamp" not in self.name else "None"


def run_figures(ended: datetime, *, succeeded: bool) -> Iterator[Figure]:
    """Yield whether a run succeeded, and when."""
    yield Figure("run", "run_succeeded", int(succeeded))
    yield Figure("run", "run_ended_timestamp_seconds", ended.timestamp())
    if succeeded:
        yield Figure("success", "last_success_timestamp_seconds", ended.timestamp())


def job_figures(result: Mapping[str, Any], billed: Mapping[str, float]) -> Iterator[Figure]:
    """Yield what a Spark job did.

    Args:
        result: content of its result.json.
        billed: EMR's `billedResourceUtilization`, or nothing where EMR doesn't say.
    """
    for dataset, counts in result["totals_by_dataset"].items():
        for outcome in ("valid", "duplicates", "quarantined", "waiting"):
            yield Figure("job", "rows", counts[outcome], {"dataset": dataset, "outcome": outcome})
    for outcome, count in result["totals"]["files"].items():
        yield Figure("job", "files", count, {"outcome": outcome})
    if (score := quality_score(result)) is not None:
        yield Figure("job", "quality_score", score)
    yield Figure("job", "dirty_dates", len(result["dirty_dates"]))
    yield Figure("job", "job_seconds", result["seconds"])
    for step in result["steps"]:
        yield Figure("job", "step_seconds", step["seconds"], {"step": step["name"]})
    cost = result["cost"] or {}
    if cost:
        yield Figure("job", "cost_usd", cost["usd"])
    for source, hours in (("estimated", (cost.get("vcpu_hours"), cost.get("gb_hours"))), ("billed", _hours(billed))):
        for name, value in zip(("vcpu_hours", "memory_gb_hours"), hours, strict=True):
            if value is not None:
                yield Figure("job", name, value, {"source": source})


def delivery_figures(receipt: Mapping[str, Any], complete_through: str | None) -> Iterator[Figure]:
    """Yield what a delivery wrote, from its receipt."""
    for table, counts in receipt["tables"].items():
        for outcome in ("put", "deleted", "unchanged"):
            yield Figure("delivery", "items", counts[outcome], {"table": table, "outcome": outcome})
        yield Figure("delivery", "throttled_requests", counts["retries"], {"table": table})
    yield Figure("delivery", "undeliverable_items", len(receipt["undeliverable"]))
    yield Figure("delivery", "delivery_seconds", receipt["seconds"])
    if complete_through is not None:
        instant = datetime.fromisoformat(complete_through).timestamp()
        yield Figure("delivery", "complete_through_timestamp_seconds", instant)


def _hours(billed: Mapping[str, float]) -> tuple[float | None, float | None]:
    return billed.get("vCPUHour"), billed.get("memoryGBHour")
