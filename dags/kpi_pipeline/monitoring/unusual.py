"""What is unusual about a run: too few good rows, or more or fewer bad and waiting ones than in the runs before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from kpi_common.quality import quality_score
from kpi_pipeline.settings import AlertSettings

Shares = dict[str, float]
LEAST_RUNS = 5  # before that, nothing is usual yet
LEAST_ROWS = 100  # shares of fewer rows jump about
FLOOR = 0.005  # shares that differ by less are the same to a person
# 1.4826 × the median deviation is the standard deviation of what is normally distributed; of these, four.
DEVIATIONS = 4 * 1.4826


def shares_of(result: Mapping[str, Any]) -> Shares:
    """Return which shares of the rows of accepted streams files are quarantined and waiting; {} of too few rows."""
    totals = result["totals"]
    rows = totals["rows"]
    return {name: totals[name] / rows for name in ("quarantined", "waiting")} if rows >= LEAST_ROWS else {}


def problems(settings: AlertSettings, result: Mapping[str, Any], before: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a sentence for each thing that is unusual.

    Args:
        settings: what counts as unusual.
        result: of the job.
        before: shares of the runs before, the newest last.
    """
    score = quality_score(result)
    if score is not None and score < settings.alert_min_quality:
        yield f"Quality: {score:g} of 100 rows read are good; expected are {settings.alert_min_quality:g}."
    for name, share in shares_of(result).items():
        known = [shares[name] for shares in before if name in shares][-settings.alert_usual_runs :]
        if settings.alert_usual_runs and len(known) >= min(LEAST_RUNS, settings.alert_usual_runs):
            low, high = usual_range(known)
            if not low <= share <= high:
                yield f"Share of {name} rows: {share:.2%}; usual are {low:.2%} to {high:.2%}."


def usual_range(values: Sequence[float]) -> tuple[float, float]:
    """Return median ± 4 standard deviations, as the median deviation estimates them: an outlier widens it little."""
    middle = median(values)
    width = max(FLOOR, DEVIATIONS * median(abs(value - middle) for value in values))
    return max(0.0, middle - width), min(1.0, middle + width)
