"""Listens, songs and users of any number, the same each time, skewed as plays are.

50,000 users, 114,000 song rows of 89,741 tracks in 114 genres, listens spread over days, one file a day. 1 % of the
listens can't be read or lack a value, 0.4 % stand in their file twice.
"""

from __future__ import annotations

import os
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import duckdb

USERS = 50_000
SONG_ROWS = 114_000
TRACKS = 89_741
GENRES = 114
FIRST_DAY = date(2026, 1, 1)


def make_data(folder: Path, listens: int, days: int, first: date = FIRST_DAY, name: str = "{day}") -> Path:
    """Write `{streams,songs,users}/` below a folder, unless they are there; a file's time is the end of its day.

    `name` is that of a file of listens, in which `{day}` stands for its day.
    """
    done = folder / ".complete"
    if done.exists():
        return folder
    for dataset in ("streams", "songs", "users"):
        (folder / dataset).mkdir(parents=True, exist_ok=True)
    with duckdb.connect() as engine:
        engine.execute(_MACROS)
        _write(engine, _USERS, folder / "users" / "users.csv", first)
        _write(engine, _SONGS, folder / "songs" / "songs.csv", first)
        for number in range(days):
            day = first + timedelta(days=number)
            begin, end = listens * number // days, listens * (number + 1) // days
            _write(
                engine,
                _listens(begin, end, day),
                folder / "streams" / f"{name.format(day=day)}.csv",
                day + timedelta(days=1),
            )
    done.touch()
    return folder


def _write(engine: duckdb.DuckDBPyConnection, query: str, path: Path, modified: date) -> None:
    engine.execute(f"COPY ({query}) TO '{path}' (HEADER, DELIMITER ',')")
    seconds = datetime(modified.year, modified.month, modified.day, tzinfo=UTC).timestamp()
    os.utime(path, (seconds, seconds))


# u(i, k): the k-th of several evenly spread numbers of row i, from 0 to below 1.
_MACROS = """
CREATE MACRO u(i, k) AS ((hash(i * 8 + k) >> 11) % 1000003) / 1000003.0;
CREATE MACRO track(i) AS substr(md5('track' || i::VARCHAR), 1, 22);
"""

_USERS = f"""
SELECT i + 1 AS user_id, 'User ' || i AS user_name, 18 + (u(i, 0) * 60)::INT AS user_age,
    'Country ' || (u(i, 1) * 40)::INT AS user_country, DATE '2020-01-01' + (u(i, 2) * 2000)::INT AS created_at
FROM range({USERS}) AS t(i)
"""  # noqa: S608 (numbers of ours)

_SONGS = f"""
SELECT i AS id, track(n) AS track_id,
    'Artist ' || (u(n, 1) * 20000)::INT || CASE WHEN u(n, 2) < 0.3 THEN ';Artist ' || (u(n, 3) * 20000)::INT ELSE '' END
        AS artists,
    'Album, ' || n AS album_name, 'Song "' || n || '"' AS track_name, (u(i, 4) * 100)::INT AS popularity,
    60000 + (u(n, 5) * 300000)::INT AS duration_ms, 'genre ' || lpad(((i * 7919) % {GENRES})::VARCHAR, 3, '0')
        AS track_genre
FROM (SELECT i, CASE WHEN i < {TRACKS} THEN i ELSE floor(u(i, 0) * {TRACKS})::BIGINT END AS n
      FROM range({SONG_ROWS}) AS t(i))
"""  # noqa: S608


def _listens(begin: int, end: int, day: date) -> str:
    return f"""
    SELECT CASE WHEN i % 200 = 9 THEN NULL ELSE 1 + floor({USERS} * pow(u(j, 0), 2))::BIGINT END AS user_id,
        track(floor({TRACKS} * pow(u(j, 1), 3))::BIGINT) AS track_id,
        CASE WHEN i % 200 = 7 THEN 'not a time'
            ELSE strftime(TIMESTAMP '{day}' + to_seconds(floor(86400 * u(j, 2))::BIGINT), '%Y-%m-%d %H:%M:%S') END
            AS listen_time
    FROM (SELECT i, CASE WHEN i % 250 = 3 THEN i - 1 ELSE i END AS j FROM range({begin}, {end}) AS t(i))
    """  # noqa: S608
