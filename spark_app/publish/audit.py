"""Audit before publishing: what must hold of the computed KPIs, or nothing of them is published."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_app.kpis.definition import Kpi
from spark_app.run.result import AuditResult

_SAMPLE = 5


@dataclass(frozen=True)
class Expectation:
    """A check's name, and a frame of the rows that break it."""

    check: str
    bad: DataFrame


def table_expectations(kpi: Kpi, frame: DataFrame) -> list[Expectation]:
    """Say what must hold of a KPI table: no value missing, key unique, ranks complete, counts plausible.

    Of a table with ranks, each group's sorted ranks must be exactly 1, 2, 3 …: both uniqueness and completeness.
    """
    nulls = F.expr(" OR ".join(f"{name} IS NULL" for name in frame.columns))
    expectations = [Expectation(f"{kpi.name}: no value is missing", frame.where(nulls))]
    rows = F.count(F.lit(1))
    if kpi.rank is None:
        counted = frame.groupBy(*kpi.key).agg(rows.alias("rows"))
        expectations.append(Expectation(f"{kpi.name}: key is unique", counted.where(F.col("rows") > 1)))
    else:
        ranks = F.array_sort(F.collect_list(kpi.rank))
        groups = frame.groupBy(*kpi.group).agg(rows.cast("int").alias("rows"), ranks.alias("ranks"))
        broken = groups.where(F.col("ranks") != F.sequence(F.lit(1), F.col("rows")))
        expectations.append(Expectation(f"{kpi.name}: key is unique and ranks are complete", broken))
    for part in ("unique_listeners", "unique_tracks"):
        if part in frame.columns and "listen_count" in frame.columns:
            wrong = (F.col(part) > F.col("listen_count")) | (F.col(part) < 1)
            expectations.append(Expectation(f"{kpi.name}: 1 ≤ {part} ≤ listen_count", frame.where(wrong)))
    return expectations


def sum_expectations(hourly: DataFrame, daily_genre: DataFrame, staged: DataFrame) -> list[Expectation]:
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
    return [Expectation("hourly, daily_genre: listens of a day are those staged", both.where(listens | genre_listens))]


def judge(expectations: list[Expectation]) -> list[AuditResult]:
    """Look for rows that break any expectation, in one job."""
    samples = [
        expectation.bad.limit(_SAMPLE).select(
            F.lit(expectation.check).alias("check"), F.to_json(F.struct("*")).alias("sample")
        )
        for expectation in expectations
    ]
    found: dict[str, list[str]] = {expectation.check: [] for expectation in expectations}
    for row in reduce(DataFrame.unionAll, samples).collect():
        found[row["check"]].append(row["sample"])
    return [AuditResult(check, not rows, "; ".join(rows)) for check, rows in found.items()]


def judge_emptied(emptied: set[str], allowed: set[str]) -> AuditResult:
    """Check that no date lost all its KPIs unless rows were taken from it (correction or withdrawal)."""
    wrong = sorted(emptied - allowed)
    return AuditResult("no date is emptied by itself", not wrong, ", ".join(wrong[:_SAMPLE]))


def failed(results: list[AuditResult]) -> list[AuditResult]:
    """Return the checks that failed."""
    return [result for result in results if not result.passed]
