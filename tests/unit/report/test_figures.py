"""Figures of the report equal the lake's tables, counted by another engine."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from kpi_common.errors import UsageError
from kpi_common.quality import quality_score
from report.__main__ import REPORT, chart_libraries
from report.figures import is_unusual, read_figures, unusual_run
from tests.support.kpi_lake import make_kpi_lake, run_result


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_kpi_lake(tmp_path_factory.mktemp("lake"), days=200, jump=3)


def in_duckdb(lake: Path, table: str, sql: str) -> list[tuple[object, ...]]:
    return duckdb.sql(sql.replace("$table", f"read_parquet('{lake}/kpis/{table}/*/*.parquet')")).fetchall()


def test_days_are_those_of_the_tables(lake: Path) -> None:
    days = read_figures(str(lake)).tables["days"]
    listens = in_duckdb(lake, "hourly", "select listen_date, sum(listen_count) from $table group by 1 order by 1")
    listeners = in_duckdb(
        lake, "daily_country", "select listen_date, sum(unique_listeners) from $table group by 1 order by 1"
    )
    assert [(row["date"], row["listens"]) for row in days] == listens
    assert [(row["date"], row["listeners"]) for row in days] == listeners


def test_songs_artists_and_reasons_are_those_of_the_tables(lake: Path) -> None:
    tables = read_figures(str(lake)).tables
    songs = in_duckdb(
        lake,
        "top_songs",
        "select listen_date, track_genre, rank, track_name, play_count from $table"
        " where listen_date > (select max(listen_date) - 92 from $table) order by 1, 2, 3",
    )
    shown = [(row["date"], row["genre"], row["rank"], row["song"], row["plays"]) for row in tables["songs"]]
    assert shown == songs
    assert len({row["date"] for row in tables["artists"]}) == 92
    assert {(row["reason"], row["rows"]) for row in tables["reasons"]} == {
        ("invalid_user_id", 12),
        ("missing_track_id", 6),
    }


def test_hours_of_the_week_add_up_to_all_listens(lake: Path) -> None:
    tables = read_figures(str(lake)).tables
    assert len(tables["week_hours"]) == 7 * 24
    assert sum(row["listens"] for row in tables["week_hours"]) == sum(row["listens"] for row in tables["days"])


def test_genres_over_a_long_time_are_whole_weeks(lake: Path) -> None:
    genres = read_figures(str(lake)).tables["genres"]
    assert {row["date"].weekday() for row in genres} == {0}
    one = next(row for row in genres if row["genre"] == "genre 3")
    week = f"between date '{one['date']}' and date '{one['date']}' + 6"
    counted = in_duckdb(
        lake,
        "daily_genre",
        f"select sum(listen_count) from $table where track_genre = 'genre 3' and listen_date {week}",  # noqa: S608
    )
    assert [(one["listens"],)] == counted


def test_a_day_unlike_those_before_is_unusual(lake: Path) -> None:
    unusual = read_figures(str(lake)).tables["unusual"]
    assert [(row["when"], row["what"]) for row in unusual] == [("2024-07-18", "listens")]


def test_a_lake_of_one_day_and_no_runs(tmp_path: Path) -> None:
    figures = read_figures(str(make_kpi_lake(tmp_path, days=1, runs=0)))
    assert len(figures.tables["days"]) == 1
    assert figures.tables["unusual"] == figures.tables["runs"] == []


def test_no_lake_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run has written KPI tables"):
        read_figures(str(tmp_path))


def test_hours_are_those_of_the_kpi_time_zone(tmp_path: Path) -> None:
    lake = make_kpi_lake(tmp_path, days=3, runs=0)
    (lake / "lake.json").write_text(json.dumps({"kpi_time_zone": "Asia/Tokyo"}))
    artists = read_figures(str(lake)).tables["artists"]
    assert artists[0]["hour"] == 9


def test_quality_score_counts_rows_of_rejected_files() -> None:
    assert quality_score(run_result(0)) == 89.09  # 98 of 110


def test_a_run_worse_than_all_before_is_unusual() -> None:
    runs = [{"score": score, "started": f"day {day}"} for day, score in enumerate([99, 98.5, 99, 99, 98.6, 99, 96])]
    assert [row["when"] for row in unusual_run(runs)] == ["day 6"]
    assert unusual_run(runs[:-1]) == []


@pytest.mark.parametrize(
    ("value", "unusual"), [(100, False), (140, False), (160, True), (40, True), (0, True)], ids=str
)
def test_what_is_unusual(value: float, unusual: bool) -> None:
    assert is_unusual(value, [100, 101, 99, 100, 102, 98]) is unusual
    assert not is_unusual(value, [100] * 4)


@pytest.mark.long
def test_three_years_are_one_page(tmp_path: Path, figure: Callable[[str], None]) -> None:
    lake = make_kpi_lake(tmp_path / "lake", days=1096, genres=114, runs=60)
    command = [sys.executable, "-m", "report", "--lake", str(lake), "--output", str(tmp_path / "report.html")]
    chart_libraries(REPORT.parent)  # bundled once
    started = time.monotonic()
    subprocess.run(command, check=True)
    figure(f"report: three years of KPIs in {time.monotonic() - started:.1f} s")
    assert (tmp_path / "report.html").stat().st_size < 8_000_000
