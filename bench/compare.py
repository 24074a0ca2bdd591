"""Each way's results are held against ours, cell by cell, before any of its times counts."""

from __future__ import annotations

from pathlib import Path

import duckdb

# Of each table: its key and the figures that every way computes exactly.
COMPARED = {
    "daily_genre": "listen_date, track_genre, listen_count, unique_listeners, total_listening_time_ms",
    "top_songs": "listen_date, track_genre, rank, track_id, track_name, play_count",
    "top_genres": "listen_date, rank, track_genre, listen_count",
    "hourly": "listen_hour, listen_count, unique_listeners, unique_tracks",
    "hourly_top_artists": "listen_hour, rank, artist, play_count",
    "hourly_top_albums": "listen_hour, rank, album_name, play_count",
    "daily_country": "listen_date, country, listen_count, unique_listeners, total_listening_time_ms",
}

# Instants as microseconds, as some ways write them with a time zone and some without.
_TYPED = {"listen_hour": "epoch_us({})", "listen_date": "{}::DATE"}


def differences(lake: Path, other: Path) -> list[str]:
    """Tables of another way that have other rows than ours; a table that it doesn't make is left out."""
    found = []
    with duckdb.connect() as engine:
        for table, columns in COMPARED.items():
            theirs = _files(other, table)
            if theirs is None:
                continue
            ours = _rows(f"{lake}/kpis/{table}/**/*.parquet", columns)
            counted = engine.execute(
                f"WITH ours AS ({ours}), theirs AS ({_rows(theirs, columns)}) SELECT "  # noqa: S608 (paths of ours)
                "(SELECT count(*) FROM ours), (SELECT count(*) FROM (FROM ours EXCEPT ALL FROM theirs)), "
                "(SELECT count(*) FROM (FROM theirs EXCEPT ALL FROM ours))"
            ).fetchone()
            if counted is None or counted[0] == 0 or counted[1] or counted[2]:
                found.append(f"{table}: (our rows, only ours, only theirs) = {counted}")
    return found


def _files(folder: Path, table: str) -> str | None:
    for pattern in (f"{table}.parquet", f"{table}/*.parquet"):
        for root in (folder, folder / "kpis"):
            if list(root.glob(pattern)):
                return str(root / pattern)
    return None


def _rows(files: str, columns: str) -> str:
    names = columns.split(", ")
    typed = [
        f"{_TYPED[name].format(name)} AS {name}" if name in _TYPED else f"{name}::VARCHAR AS {name}" for name in names
    ]
    return f"SELECT {', '.join(typed)} FROM read_parquet('{files}', hive_partitioning = true)"  # noqa: S608
