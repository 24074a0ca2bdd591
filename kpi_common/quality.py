"""How good the rows of a run were, in one number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def quality_score(result: Mapping[str, Any]) -> float | None:
    """Return how many of 100 rows that a run read, those of rejected files too, are not bad.

    Good are valid ones, duplicates, and those of forgotten users.

    Args:
        result: of a run, see `conf/schemas/run_result.schema.json`.

    Returns:
        The score, or None where nothing was read.
    """
    read = sum(quality.get("rows", 0) for quality in result["quality"].values())
    totals = result["totals_by_dataset"].values()
    good = sum(counts["valid"] + counts["duplicates"] + counts.get("forgotten", 0) for counts in totals)
    return round(100 * good / read, 2) if read else None
