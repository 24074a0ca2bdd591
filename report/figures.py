"""What the report shows, as tables of plain values, each straight from the lake's tables or its runs' results.

A table is a list of rows of one shape; the grain of each stands beside its query. Nothing is estimated, and what
can't be added up over days (listeners) is not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from statistics import median
from typing import Any

import duckdb
from deltalake import DeltaTable, QueryBuilder
from deltalake.exceptions import TableNotFoundError
from duckdb import DuckDBPyConnection

from kpi_common.errors import StorageError, UsageError
from kpi_common.files import Folder, open_lake, storage_for
from kpi_common.quality import quality_score
from lake_reader.duckdb_views import delta_table

# What is read of each table; of some, just the last days.
COLUMNS = {
    "kpis.hourly": "listen_date, listen_hour, listen_count, track_diversity_index",
    "kpis.daily_country": "listen_date, country, listen_count, unique_listeners, total_listening_time_ms",
    "kpis.daily_genre": "listen_date, track_genre, listen_count",
    "kpis.top_songs": "listen_date, track_genre, rank, track_name, artists, play_count",
    "kpis.hourly_top_artists": "listen_date, listen_hour, rank, artist, play_count",
    "quarantine.records": "dataset, file_name, line_number, raw, reasons, quarantined_at",
}
OF_LAST_DAYS = ("kpis.top_songs", "kpis.hourly_top_artists")
DETAIL_DAYS = 92  # of songs and artists, which a day has hundreds of
DAILY_UP_TO = 180  # days; genres over a longer time are shown by week
TOP_GENRES = 8
RUNS = 60
SAMPLES_PER_REASON = 5
LONGEST_SAMPLE = 300
COMPARED_DAYS = 28
LEAST_COMPARED_DAYS = 5
CHECKED_DAYS = 7
Row = dict[str, Any]
Tables = dict[str, list[Row]]


@dataclass(frozen=True)
class Figures:
    """All tables of the report by name, and what its head says."""

    lake: str
    time_zone: str
    tables: Tables


def read_figures(lake: str) -> Figures:
    """Read all that the report shows.

    Raises:
        UsageError: there is no such lake, or no run has written its tables yet.
    """
    folder = open_lake(lake)
    zone = _zone(folder)
    runs = _runs(folder)
    with _loaded(folder) as lake_tables:
        tables = {**_music(lake_tables, zone), **_quality(lake_tables, runs), **_run_tables(runs)}
    tables["unusual"] = [*unusual_days(tables["days"], tables["genre_days"]), *unusual_run(tables["runs"])]
    del tables["genre_days"]
    return Figures(folder.uri, zone, tables)


def _loaded(folder: Folder) -> DuckDBPyConnection:
    """Return a DuckDB that holds what the report reads. Three years are a thousand files a table: read once."""
    con = duckdb.connect()
    con.execute("load icu; set timezone = 'UTC'; create schema kpis; create schema quarantine")
    tables = {name: table for name in COLUMNS if (table := _table(folder.location(name.replace(".", "/"))))}
    if not tables:
        raise UsageError(f"{folder.uri}: no run has written KPI tables here yet; name a lake's root")
    dates = [part["listen_date"] for part in tables["kpis.hourly"].partitions()] if "kpis.hourly" in tables else []
    last_days = dates and f"where listen_date > date '{date.fromisoformat(max(dates)) - timedelta(DETAIL_DAYS)}'"

    def load(name: str) -> None:
        where = last_days if name in OF_LAST_DAYS else ""
        query = QueryBuilder().register("source", tables[name])
        cursor = con.cursor()
        cursor.register("rows", query.execute(f"select {COLUMNS[name]} from source {where or ''}"))
        cursor.execute(f"create table {name} as select * from rows")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(load, tables))
    return con


def _table(uri: str) -> DeltaTable | None:
    try:
        return delta_table(uri)
    except StorageError as error:
        if isinstance(error.__cause__, TableNotFoundError):
            return None
        raise


# --- music ---


def _music(lake: DuckDBPyConnection, zone: str) -> Tables:
    """All tables of the section; hours of the clock are those of the KPI time zone."""
    lake.execute(f"set timezone = '{zone}'")
    days = _days(lake)
    return {
        "days": days,
        # One row per weekday and hour of the clock: listens of all such hours, and how many there are per day.
        "week_hours": _rows(
            lake,
            "with weekdays as (select isodow(listen_hour) as number, count(distinct listen_date) as days"
            " from kpis.hourly group by 1)"
            " select strftime(any_value(listen_hour), '%a') as weekday, hour(listen_hour) as hour,"
            " sum(listen_count) as listens, round(sum(listen_count) / any_value(days), 2) as listens_per_day"
            " from kpis.hourly join weekdays on isodow(listen_hour) = number group by number, hour"
            " order by number, hour",
        ),
        "genre_days": _rows(
            lake,
            "select listen_date as date, track_genre as genre, listen_count as listens from kpis.daily_genre"
            f" where listen_date > (select max(listen_date) - {DETAIL_DAYS} from kpis.hourly) order by 1, 2",
        ),
        "genres": _genres(lake, days),
        "songs": _rows(
            lake,
            "select listen_date as date, track_genre as genre, rank, track_name as song, artists, play_count as plays"
            " from kpis.top_songs order by 1, 2, 3",
        ),
        "artists": _rows(
            lake,
            "select listen_date as date, rank, artist, play_count as plays, hour(listen_hour) as hour"
            " from kpis.hourly_top_artists order by listen_hour, rank",
        ),
        # One row per day: the track diversity index of its hours.
        "diversity": _rows(
            lake,
            "select listen_date as date, min(track_diversity_index) as lowest,"
            " round(median(track_diversity_index::double), 6) as median, max(track_diversity_index) as highest"
            " from kpis.hourly group by 1 order by 1",
        ),
        "countries": _rows(
            lake,
            "select country, sum(listen_count) as listens,"
            " round(sum(total_listening_time_ms) / 3600000, 1) as hours_listened,"
            " max(unique_listeners) as most_listeners_of_a_day from kpis.daily_country group by 1 order by 2 desc, 1",
        ),
    }


def _days(lake: DuckDBPyConnection) -> list[Row]:
    """One row per day. A listener is in one country, so listeners of a day are the sum over its countries."""
    listeners = {
        row["date"]: row
        for row in _rows(
            lake,
            "select listen_date as date, sum(unique_listeners) as listeners,"
            " sum(total_listening_time_ms) as ms from kpis.daily_country group by 1",
        )
    }
    days = _rows(
        lake,
        "select listen_date as date, sum(listen_count) as listens from kpis.hourly group by 1 order by 1",
    )
    for row in days:
        of_day = listeners.get(row["date"], {"listeners": None, "ms": None})
        row["listeners"] = of_day["listeners"]
        row["hours_listened"] = None if of_day["ms"] is None else round(of_day["ms"] / 3_600_000, 1)
    return days


def _genres(lake: DuckDBPyConnection, days: Sequence[Row]) -> list[Row]:
    """One row per day and genre with the most listens; over a longer time per week, from Monday, of whole weeks."""
    if not days:
        return []
    first, last = days[0]["date"], days[-1]["date"]
    grain = "day" if len(days) <= DAILY_UP_TO else "week"
    if grain == "week":
        first += timedelta(days=-first.weekday() % 7)
        last -= timedelta(days=(last.weekday() + 1) % 7)
    return _rows(
        lake,
        "with top as (select track_genre from kpis.daily_genre group by 1"
        f" order by sum(listen_count) desc, 1 limit {TOP_GENRES})"
        f" select cast(date_trunc('{grain}', listen_date) as date) as date, track_genre as genre,"
        " sum(listen_count) as listens from kpis.daily_genre where track_genre in (select track_genre from top)"
        f" and listen_date between date '{first}' and date '{last}' group by 1, 2 order by 1, 2",
    )


# --- quality and runs, from runs/<run_id>/result.json ---


def _runs(folder: Folder) -> list[dict[str, Any]]:
    """Return the newest results, the oldest of them first, of commands that did something."""
    storage = storage_for(folder.uri)
    listed = [
        stored for stored in storage.list_files(folder.location("runs")) if stored.relative.endswith("/result.json")
    ]
    newest = sorted(listed, key=lambda stored: (stored.modified_at, stored.relative))[-3 * RUNS :]
    with ThreadPoolExecutor(8) as pool:
        contents = list(pool.map(lambda stored: storage.read(stored.uri), newest))
    results = [json.loads(content) for content in contents if content is not None]
    results = [result for result in results if result["status"] != "nothing_to_do"]
    return sorted(results, key=lambda result: str(result["started_at"]))[-RUNS:]


def _quality(lake: DuckDBPyConnection, runs: Sequence[dict[str, Any]]) -> Tables:
    reasons = _rows(
        lake,
        "select dataset, reason, count(*) as rows from (select dataset, unnest(reasons) as reason"
        " from quarantine.records) group by 1, 2 order by 3 desc, 1, 2",
    )
    samples = _rows(
        lake,
        "select dataset, reason, file_name as file, line_number as line, raw as row from ("
        "select *, row_number() over (partition by dataset, reason"
        " order by quarantined_at desc, file_name, line_number) as n"
        " from (select *, unnest(reasons) as reason from quarantine.records))"
        f" where n <= {SAMPLES_PER_REASON} order by 1, 2, n",
    )
    for sample in samples:
        sample["row"] = str(sample["row"])[:LONGEST_SAMPLE]
    files = [
        {"run": run["run_id"], "started": _instant(run), "outcome": outcome, "files": count}
        for run in runs
        for outcome, count in sorted(run["totals"]["files"].items())
        if count
    ]
    rows = [
        {"run": run["run_id"], "started": _instant(run), "outcome": outcome, "rows": run["totals"][outcome]}
        for run in runs
        for outcome in ("valid", "duplicates", "quarantined")
    ]
    nulls = [
        {"dataset": dataset, "column": column, "null_share": share}
        for dataset, quality in _newest_quality(runs)
        for column, share in quality.get("null_share", {}).items()
    ]
    return {"reasons": reasons, "samples": samples, "file_outcomes": files, "row_outcomes": rows, "nulls": nulls}


def _newest_quality(runs: Sequence[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield for each dataset what the newest run with rows of it found."""
    newest = {dataset: quality for run in runs for dataset, quality in run["quality"].items() if quality.get("rows")}
    yield from sorted(newest.items())


def _run_tables(runs: Sequence[dict[str, Any]]) -> Tables:
    summary = [
        {
            "run": run["run_id"],
            "started": _instant(run),
            "command": run["command"],
            "status": run["status"],
            "seconds": run["seconds"],
            "score": quality_score(run),
            "read_mb": _megabytes(run, "input_bytes"),
            "written_mb": _megabytes(run, "output_bytes"),
            "usd": (run["cost"] or {}).get("usd"),
        }
        for run in runs
    ]
    steps = [
        {
            "run": run["run_id"],
            "step": step["name"],
            "seconds": step["seconds"],
            "cpu_seconds": step.get("cpu_seconds"),
            "read_mb": round(step.get("input_bytes", 0) / 1e6, 2),
            "written_mb": round(step.get("output_bytes", 0) / 1e6, 2),
        }
        for run in runs
        for step in run["steps"]
    ]
    return {"runs": summary, "steps": steps}


def _megabytes(run: dict[str, Any], what: str) -> float:
    total: int = sum(step.get(what, 0) for step in run["steps"])
    return round(total / 1e6, 2)


def _instant(run: dict[str, Any]) -> str:
    return datetime.fromisoformat(run["started_at"]).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


# --- what is unusual ---


def unusual_days(days: Sequence[Row], genre_days: Sequence[Row]) -> list[Row]:
    """Return figures of the last days that are far from the median of the 28 days before each.

    Far: by more than half of the median, and more than 4 times the median deviation from it.
    """
    dates = [row["date"] for row in days]
    series = {
        "listens": {row["date"]: row["listens"] for row in days},
        "listeners": {row["date"]: row["listeners"] for row in days if row["listeners"] is not None},
    }
    for row in genre_days:
        series.setdefault(f"listens of {row['genre']}", {})[row["date"]] = row["listens"]
    found = []
    for what, values in series.items():
        for position in range(max(0, len(dates) - CHECKED_DAYS), len(dates)):
            before = [values.get(date, 0) for date in dates[max(0, position - COMPARED_DAYS) : position]]
            value = values.get(dates[position], 0)
            if is_unusual(value, before):
                found.append({"when": str(dates[position]), "what": what, "value": value, "usual": median(before)})
    return sorted(found, key=lambda row: str(row["when"]), reverse=True)


def unusual_run(runs: Sequence[Row]) -> list[Row]:
    """Return the score of the newest run if it is worse by a point than any of the runs before."""
    scores = [row["score"] for row in runs if row["score"] is not None]
    if len(scores) <= LEAST_COMPARED_DAYS or scores[-1] >= min(scores[-COMPARED_DAYS - 1 : -1]) - 1:
        return []
    newest = [row for row in runs if row["score"] is not None][-1]
    usual = median(scores[-COMPARED_DAYS - 1 : -1])
    return [{"when": newest["started"], "what": "quality score of a run", "value": scores[-1], "usual": usual}]


def is_unusual(value: float, before: Sequence[float]) -> bool:
    """Whether a value is far from those before it; never where there are fewer than five."""
    if len(before) < LEAST_COMPARED_DAYS:
        return False
    usual = float(median(before))
    deviation = float(median(abs(one - usual) for one in before))
    return abs(value - usual) > max(4 * deviation, 0.5 * usual, 1)


def _rows(lake: DuckDBPyConnection, sql: str) -> list[Row]:
    """Return the rows of a query; none where the lake has not the table yet."""
    try:
        result = lake.execute(sql)
    except duckdb.CatalogException:
        return []
    names = [column[0] for column in result.description or ()]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def _zone(folder: Folder) -> str:
    try:
        return str(json.loads(folder.read("lake.json"))["kpi_time_zone"])
    except FileNotFoundError:
        return "UTC"
