"""A lake with KPI tables and runs' results of any length, made by DuckDB: no Spark, a second for three years."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
from deltalake import write_deltalake

FIRST_DAY = date(2024, 1, 1)
HOSTILE = "</script><script>window.broken=1</script><img src=x onerror='window.broken=1'>\u2028\"'\\"

# What a day is made of: weeks have a shape, and the last day is unusual where `jump` is not 1.
TABLES = {
    "kpis/hourly": """
        select d as listen_date, timezone('UTC', d::timestamp + to_hours(h)) as listen_hour,
            (20 + (h * 7) % 24 + 3 * (dayofweek(d) % 7)) * (case when d = last then jump else 1 end) as listen_count,
            (10 + h % 5)::bigint as unique_listeners, (15 + h % 3)::bigint as unique_tracks,
            (0.5 + ((h + day(d)) % 10) / 100.0)::decimal(18,6) as track_diversity_index
        from days, range(24) hours(h)""",
    "kpis/daily_country": """
        select d as listen_date, c as country, (100 + 10 * n + day(d))::bigint as listen_count,
            (40 + n)::bigint as unique_listeners, (3600000 * (n + 1))::bigint as total_listening_time_ms
        from days, (select unnest(['Brazil', 'Côte d''Ivoire', 'unknown']) as c, unnest([2, 1, 0]) as n)""",
    "kpis/daily_genre": """
        select d as listen_date, g as track_genre, (300 - n + dayofweek(d))::bigint as listen_count
        from days, genres""",
    "kpis/top_genres": """
        select d as listen_date, (n + 1)::integer as rank, g as track_genre,
            (300 - n + dayofweek(d))::bigint as listen_count
        from days, genres where n < 5""",
    "kpis/top_songs": """
        select d as listen_date, g as track_genre, r::integer as rank, 't' || n || r as track_id,
            case when r = 1 then $hostile else 'Song ' || n || '.' || r end as track_name,
            'Artist ' || n as artists, (50 - 10 * r + day(d) % 5)::bigint as play_count
        from days, genres, range(1, 4) ranks(r)""",
    "kpis/hourly_top_artists": """
        select d as listen_date, timezone('UTC', d::timestamp + to_hours(h)) as listen_hour, r::integer as rank,
            case when r = 1 then $hostile else 'Artist ' || ((h * r) % 23) end as artist, (30 - r)::bigint as play_count
        from days, range(24) hours(h), range(1, 6) ranks(r)""",
    "quarantine/records": """
        select 1 as file_id, 'streams' as dataset, 'streams/' || $hostile as file_name, n::bigint as line_number,
            'x,' || $hostile || ',' || n as raw, ['invalid_user_id', 'missing_track_id'][: 1 + (n % 2)::int] as reasons,
            'run-1' as run_id, timezone('UTC', timestamp '2024-01-01') as quarantined_at
        from range(12) rows(n)""",
}


def make_kpi_lake(folder: Path, days: int, *, genres: int = 12, runs: int = 3, jump: int = 1) -> Path:
    """Write the lake and return its folder."""
    con = duckdb.connect()
    last = FIRST_DAY + timedelta(days=days - 1)
    con.execute(
        f"set timezone='UTC'; create view days as select ('{FIRST_DAY}'::date + i::integer) as d,"
        f" date '{last}' as last, {jump} as jump from range({days}) r(i);"
        f"create view genres as select 'genre ' || n as g, n::integer as n from range({genres}) r(n)"
    )
    for path, sql in TABLES.items():
        keys = ["listen_date"] if path.startswith("kpis/") else None
        text = HOSTILE.replace("'", "''")
        write_deltalake(str(folder / path), con.sql(sql.replace("$hostile", f"'{text}'")), partition_by=keys)
    (folder / "lake.json").write_text(json.dumps({"kpi_time_zone": "UTC"}))
    for number in range(runs):
        target = folder / "runs" / f"run-{number}"
        target.mkdir(parents=True)
        (target / "result.json").write_text(json.dumps(run_result(number)))
    return folder


def run_result(number: int, *, bad: int = 2) -> dict[str, Any]:
    """A run's result with what the report reads of it."""
    started = datetime(2024, 1, 1, 6, tzinfo=UTC) + timedelta(days=number)
    counts = {"rows": 100, "valid": 98 - bad, "duplicates": 2, "quarantined": bad}
    steps = [
        {"name": name, "seconds": seconds + number, "cpu_seconds": 1.0, "input_bytes": 10**6, "output_bytes": 5 * 10**5}
        for name, seconds in (("start Spark", 4.0), ("validate", 7.5), (HOSTILE, 2.0))
    ]
    return {
        "run_id": f"run-{number}",
        "command": "run",
        "status": "succeeded",
        "started_at": started.isoformat(),
        "seconds": 20.5 + number,
        "totals": {**counts, "files": {"accepted": 9, "rejected": 1}},
        "totals_by_dataset": {"streams": counts},
        "quality": {"streams": {"rows": 110, "null_share": {"user_id": 0.01, "track_id": 0.0}}},
        "steps": steps,
        "cost": {"usd": 0.0057},
    }
