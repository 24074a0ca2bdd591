"""Audit before publishing: what must hold of the computed KPIs, or nothing of them is published."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from spark_app.kpis.definition import Kpi

_SAMPLE = 5


@dataclass(frozen=True)
class AuditResult:
    """One check: passed if no row breaks it; `detail` shows some rows that do."""

    check: str
    passed: bool
    detail: str


def audit_table(kpi: Kpi, frame: DataFrame) -> list[AuditResult]:
    """Check one KPI table's frame: key unique and not null, no value null, ranks complete, counts plausible.

    One pass; only a check that fails is looked at again, for sample rows.
    """
    return [_judge(name, bad) for name, bad in _bad_rows(kpi, frame)]


def _bad_rows(kpi: Kpi, frame: DataFrame) -> Iterator[tuple[str, DataFrame]]:
    nulls = reduce(Column.__or__, [F.col(name).isNull() for name in frame.columns])
    yield f"{kpi.name}: no value is missing", frame.where(nulls)
    counted = frame.groupBy(*kpi.key).agg(F.count(F.lit(1)).alias("rows"))
    yield f"{kpi.name}: key is unique", counted.where(F.col("rows") > 1)
    if kpi.rank is not None:
        ranks = frame.groupBy(*kpi.group).agg(
            F.min(kpi.rank).alias("first"), F.max(kpi.rank).alias("last"), F.count(F.lit(1)).alias("rows")
        )
        yield f"{kpi.name}: ranks are complete", ranks.where((F.col("first") != 1) | (F.col("last") != F.col("rows")))
    for part in ("unique_listeners", "unique_tracks"):
        if part in frame.columns and "listen_count" in frame.columns:
            wrong = (F.col(part) > F.col("listen_count")) | (F.col(part) < 1)
            yield f"{kpi.name}: 1 ≤ {part} ≤ listen_count", frame.where(wrong)


def audit_sums(hourly: DataFrame, daily_genre: DataFrame, staged: DataFrame) -> list[AuditResult]:
    """Check that sums agree with what is staged.

    `staged` holds for each listen_date: `listens` (unique, with a known track) and `genre_listens` (one for each
    genre of the track), counted straight from the staged tables.
    """
    hours = hourly.groupBy("listen_date").agg(F.sum("listen_count").alias("published"))
    genres = daily_genre.groupBy("listen_date").agg(F.sum("listen_count").alias("published"))
    return [
        _judge("hourly: listens of a day are those staged", _differing(hours, staged, "listens")),
        _judge("daily_genre: listens of a day are those staged", _differing(genres, staged, "genre_listens")),
    ]


def audit_dates(dates: set[str], emptied: set[str], allowed: set[str]) -> AuditResult:
    """Check that no date lost all its KPIs unless rows were taken from it (correction or withdrawal)."""
    wrong = sorted((emptied & dates) - allowed)
    return AuditResult("no date is emptied by itself", not wrong, ", ".join(wrong[:_SAMPLE]))


def failed(results: list[AuditResult]) -> list[AuditResult]:
    """Return the checks that failed."""
    return [result for result in results if not result.passed]


def _differing(published: DataFrame, staged: DataFrame, column: str) -> DataFrame:
    both = published.join(staged.select("listen_date", column), on="listen_date", how="full")
    return both.where(F.coalesce("published", F.lit(0)) != F.coalesce(column, F.lit(0)))


def _judge(check: str, bad: DataFrame) -> AuditResult:
    sample = bad.limit(_SAMPLE).collect()
    return AuditResult(check, not sample, "; ".join(str(row.asDict()) for row in sample))


Frames = Mapping[str, DataFrame]
