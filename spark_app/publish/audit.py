"""Audit before publishing: what must hold of the computed KPIs, or nothing of them is published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from spark_app.kpis.definition import Kpi
from spark_app.run.result import AuditResult

_SAMPLE = 5


@dataclass(frozen=True)
class Expectations:
    """What must hold of each row of a frame: by check, a condition that is true of a row that breaks it."""

    frame: DataFrame
    broken: Mapping[str, Column]


def table_expectations(kpi: Kpi, frame: DataFrame) -> Expectations:
    """Say what must hold of a KPI table: no value missing, key unique, ranks complete, counts plausible.

    Of a table with ranks, each group's sorted ranks must be exactly 1, 2, 3 …: both uniqueness and completeness.
    """
    parts = [part for part in ("unique_listeners", "unique_tracks") if {part, "listen_count"} <= set(frame.columns)]
    counted = [
        F.count(F.lit(1)).cast("int").alias("rows"),
        F.expr(f"count_if({' OR '.join(f'{name} IS NULL' for name in frame.columns)})").alias("with_missing"),
        *(F.expr(f"count_if({part} > listen_count OR {part} < 1)").alias(f"wrong_{part}") for part in parts),
    ]
    broken = {"no value is missing": F.col("with_missing") > 0}
    if kpi.rank is None:
        broken["key is unique"] = F.col("rows") > 1
    else:
        counted.append(F.array_sort(F.collect_list(kpi.rank)).alias("ranks"))
        broken["key is unique and ranks are complete"] = F.col("ranks") != F.sequence(F.lit(1), F.col("rows"))
    broken |= {f"1 ≤ {part} ≤ listen_count": F.col(f"wrong_{part}") > 0 for part in parts}
    groups = frame.groupBy(*kpi.group).agg(*counted)
    return Expectations(groups, {f"{kpi.name}: {check}": condition for check, condition in broken.items()})


def sum_expectations(hourly: DataFrame, daily_genre: DataFrame, staged: DataFrame) -> Expectations:
    """Say that sums agree with what is staged.

    `staged` holds for each listen_date: `listens` (unique, with a known track) and `genre_listens` (one for each
    genre of the track), counted straight from the staged tables.
    """
    hours = hourly.groupBy("listen_date").agg(F.sum("listen_count").alias("published"))
    genres = daily_genre.groupBy("listen_date").agg(F.sum("listen_count").alias("published_genres"))
    both = hours.join(staged, on="listen_date", how="full").join(genres, on="listen_date", how="full")
    zero = F.lit(0)
    listens = F.coalesce("published", zero) != F.coalesce("listens", zero)
    genre_listens = F.coalesce("published_genres", zero) != F.coalesce("genre_listens", zero)
    return Expectations(both, {"hourly, daily_genre: listens of a day are those staged": listens | genre_listens})


def judge(expectations: Sequence[Expectations]) -> list[AuditResult]:
    """Count the rows that break each expectation, in one job, and show some of those that are."""
    counted = [
        of_frame.frame.agg(
            F.map_from_arrays(
                F.array(*map(F.lit, of_frame.broken)), F.array(*map(F.count_if, of_frame.broken.values()))
            )
        )
        for of_frame in expectations
    ]
    counts = {check: count for row in reduce(DataFrame.unionAll, counted).collect() for check, count in row[0].items()}
    return [
        AuditResult(check, not counts[check], _samples(of_frame.frame.where(condition)) if counts[check] else "")
        for of_frame in expectations
        for check, condition in of_frame.broken.items()
    ]


def _samples(bad: DataFrame) -> str:
    return "; ".join(row[0] for row in bad.limit(_SAMPLE).select(F.to_json(F.struct("*"))).collect())


def judge_emptied(emptied: set[str], allowed: set[str]) -> AuditResult:
    """Check that no date lost all its KPIs unless rows were taken from it (correction or withdrawal)."""
    wrong = sorted(emptied - allowed)
    return AuditResult("no date is emptied by itself", not wrong, ", ".join(wrong[:_SAMPLE]))


def failed(results: list[AuditResult]) -> list[AuditResult]:
    """Return the checks that failed."""
    return [result for result in results if not result.passed]
