"""What is unusual about a run's figures."""

from typing import Any

import pytest

from kpi_pipeline.monitoring.unusual import problems, shares_of, usual_range
from kpi_pipeline.settings import AlertSettings


def result(quarantined: int = 5, waiting: int = 10, rows: int = 1000, read: int | None = None) -> dict[str, Any]:
    counts = {"rows": rows, "valid": rows - quarantined, "duplicates": 0, "quarantined": quarantined}
    quality = {"streams": {"rows": rows if read is None else read}}
    return {"totals": counts | {"waiting": waiting}, "totals_by_dataset": {"streams": counts}, "quality": quality}


USUAL = [shares_of(result(quarantined, 10 + quarantined)) for quarantined in (4, 5, 6, 5, 5)]


def found(now: dict[str, Any], before: Any = USUAL, **settings: Any) -> list[str]:
    return list(problems(AlertSettings(**settings), now, before))


def test_what_is_as_always_is_no_problem() -> None:
    assert found(result()) == []
    assert found(result(quarantined=9)) == [], "half a percent more is nothing"


@pytest.mark.parametrize("name", ["quarantined", "waiting"])
def test_a_share_far_from_its_usual_range(name: str) -> None:
    (problem,) = found(result(**{name: 60}))
    assert problem.startswith(f"Share of {name} rows: 6.00%; usual are")


def test_a_share_that_falls_is_unusual_too() -> None:
    before = [shares_of(result(waiting=waiting)) for waiting in (100, 101, 99, 100, 102)]
    (problem,) = found(result(waiting=0), before)
    assert problem.startswith("Share of waiting rows: 0.00%")


def test_nothing_is_usual_before_five_runs_and_of_few_rows() -> None:
    assert found(result(quarantined=60), USUAL[:4]) == []
    assert found(result(quarantined=9, rows=99)) == []
    assert found(result(quarantined=60), alert_usual_runs=0) == []


def test_only_the_last_runs_count() -> None:
    old = [shares_of(result(quarantined=60))] * 20
    assert found(result(quarantined=60), [*old, *USUAL], alert_usual_runs=5) != []


def test_quality_counts_rows_of_rejected_files() -> None:
    (problem,) = found(result(read=2000))
    assert problem == "Quality: 49.75 of 100 rows read are good; expected are 90."
    assert found(result(read=2000), alert_min_quality=0) == []


def test_an_outlier_widens_the_usual_range_little() -> None:
    low, high = usual_range([0.01, 0.011, 0.009, 0.01, 0.5])
    assert (low, high) == pytest.approx((0.0041, 0.0159), abs=1e-3)
