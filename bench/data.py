"""Listens, songs and users of any number, the same each time, skewed as plays are, in files as they arrive.

50,000 users, 114,000 song rows of 89,741 tracks in 114 genres, listens spread over days. 1 % of the listens can't be
read or lack a value, 0.4 % stand in their file twice.

Shape `hourly`, the standard: 24 files per day, each written at the end of its hour. Of its listens 80 % are of that
hour, 15 % of the hour before, and 5 % are late by up to three days; 1 % of the listens stand in the next file, too.
Shape `daily`: one file per day, which holds the listens of that day and no others.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Literal

import duckdb

from tools.toolchain import BUILD, say

GENRES = 114
FIRST_DAY = date(2026, 1, 1)
RESENT_EVERY = 50  # of so many files, one is sent again with corrections

Shape = Literal["hourly", "daily"]
_HOURS = 24


@dataclass(frozen=True)
class References:
    """How many users, rows of songs, and tracks in them there are."""

    users: int = 50_000
    song_rows: int = 114_000
    tracks: int = 89_741


STANDARD = References()
DAYS = 30


@dataclass(frozen=True)
class _File:
    """One file of listens: `rows` are its own, of `copied`, the rows of the file before, some stand in it again."""

    name: str
    rows: range
    start: datetime
    length: timedelta
    copied: range


def cached_data(listens: int, days: int = DAYS, shape: Shape = "hourly") -> Path:
    """Return the folder with this input, made once."""
    folder = BUILD / "bench" / f"data-{listens}-{days}-{shape}"
    if not (folder / ".complete").exists():
        say(f"making {listens:,} listens over {days} days (once) …")
    return make_data(folder, listens, days, shape=shape)


def make_data(
    folder: Path,
    listens: int,
    days: int,
    first: date = FIRST_DAY,
    name: str = "{day}",
    shape: Shape = "daily",
    references: References = STANDARD,
) -> Path:
    """Write `{streams,songs,users}/` below a folder, unless they are there; a file's time is when it was complete.

    `name` is that of a file of listens, in which `{day}` stands for its day; hourly files add their hour.
    """
    done = folder / ".complete"
    if done.exists():
        return folder
    for dataset in ("streams", "songs", "users"):
        (folder / dataset).mkdir(parents=True, exist_ok=True)
    midnight = datetime(first.year, first.month, first.day, tzinfo=UTC)
    with duckdb.connect() as engine:
        engine.execute(MACROS)
        _write(engine, users_query(references), folder / "users" / "users.csv", midnight)
        _write(engine, songs_query(references), folder / "songs" / "songs.csv", midnight)
        for file in _files(listens, days, first, name, shape):
            _write(engine, _listens(file, references), folder / "streams" / file.name, file.start + file.length)
    done.touch()
    return folder


def make_corrections(data: Path, sent_again: Path, corrected: Path) -> None:
    """Correct one file in `RESENT_EVERY`: every tenth of its lines is gone, and one user is another.

    `sent_again` gets these files alone, under their names, an hour newer: the second delivery. `corrected` gets all
    files as they then stand, for ways that read everything at once.
    """
    shutil.copytree(data, corrected, dirs_exist_ok=True)
    (sent_again / "streams").mkdir(parents=True, exist_ok=True)
    for path in sorted((data / "streams").glob("*.csv"))[::RESENT_EVERY]:
        header, *lines = path.read_text("utf-8").splitlines()
        kept = [line for number, line in enumerate(lines) if number % 10 != 0]
        kept[0] = ",".join(["1", *kept[0].split(",")[1:]])
        modified = path.stat().st_mtime + 3600
        for target in (sent_again / "streams" / path.name, corrected / "streams" / path.name):
            target.write_text("\n".join([header, *kept, ""]), "utf-8")
            os.utime(target, (modified, modified))


def _files(listens: int, days: int, first: date, name: str, shape: Shape) -> Iterator[_File]:
    per_day = _HOURS if shape == "hourly" else 1
    count, length = days * per_day, timedelta(hours=_HOURS // per_day)
    before = range(0)
    for number in range(count):
        rows = range(listens * number // count, listens * (number + 1) // count)
        day = first + timedelta(days=number // per_day)
        start = datetime(first.year, first.month, first.day, tzinfo=UTC) + number * length
        suffix = f"T{start:%H}" if shape == "hourly" else ""
        yield _File(f"{name.format(day=day)}{suffix}.csv", rows, start, length, before)
        before = rows if shape == "hourly" else range(0)


def _write(engine: duckdb.DuckDBPyConnection, query: str, path: Path, modified: datetime) -> None:
    engine.execute(f"COPY ({query}) TO '{path}' (HEADER, DELIMITER ',')")
    os.utime(path, (modified.timestamp(), modified.timestamp()))


# u(i, k): the k-th of several evenly spread numbers of row i, from 0 to below 1.
MACROS = """
CREATE MACRO u(i, k) AS ((hash(i * 8 + k) >> 11) % 1000003) / 1000003.0;
CREATE MACRO track(i) AS substr(md5('track' || i::VARCHAR), 1, 22);
"""


def users_query(references: References) -> str:
    """SQL of the rows of a users file."""
    return f"""
    SELECT i + 1 AS user_id, 'User ' || i AS user_name, 18 + (u(i, 0) * 60)::INT AS user_age,
        'Country ' || (u(i, 1) * 40)::INT AS user_country, DATE '2020-01-01' + (u(i, 2) * 2000)::INT AS created_at
    FROM range({references.users}) AS t(i)
    """  # noqa: S608 (numbers of ours)


def songs_query(references: References) -> str:
    """SQL of the rows of a songs file."""
    tracks = references.tracks
    return f"""
    SELECT i AS id, track(n) AS track_id,
        'Artist ' || (u(n, 1) * 20000)::INT
            || CASE WHEN u(n, 2) < 0.3 THEN ';Artist ' || (u(n, 3) * 20000)::INT ELSE '' END AS artists,
        'Album, ' || n AS album_name, 'Song "' || n || '"' AS track_name, (u(i, 4) * 100)::INT AS popularity,
        60000 + (u(n, 5) * 300000)::INT AS duration_ms, 'genre ' || lpad(((i * 7919) % {GENRES})::VARCHAR, 3, '0')
            AS track_genre
    FROM (SELECT i, CASE WHEN i < {tracks} THEN i ELSE floor(u(i, 0) * {tracks})::BIGINT END AS n
          FROM range({references.song_rows}) AS t(i))
    """  # noqa: S608


def _listens(file: _File, references: References) -> str:
    own = _rows(file.rows, file.start, file.length, references)
    if not file.copied:
        return own
    copies = _rows(file.copied, file.start - file.length, file.length, references)
    return f"{own} UNION ALL {copies} WHERE i % 100 = 5"


def _rows(rows: range, start: datetime, length: timedelta, references: References) -> str:
    users, tracks, seconds = references.users, references.tracks, int(length.total_seconds())
    # Seconds after the start of the file's own hour; before it where a listen is late.
    after = f"""CASE WHEN u(j, 3) < 0.05 THEN -floor(259200 * u(j, 4))
        WHEN u(j, 3) < 0.2 THEN floor({seconds} * u(j, 2)) - {seconds} ELSE floor({seconds} * u(j, 2)) END"""
    if seconds == _HOURS * 3600:
        after = f"floor({seconds} * u(j, 2))"
    return f"""
    SELECT CASE WHEN i % 200 = 9 THEN NULL ELSE 1 + floor({users} * pow(u(j, 0), 2))::BIGINT END AS user_id,
        track(floor({tracks} * pow(u(j, 1), 3))::BIGINT) AS track_id,
        CASE WHEN i % 200 = 7 THEN 'not a time'
            ELSE strftime(TIMESTAMP '{start:%Y-%m-%d %H:%M:%S}' + to_seconds(({after})::BIGINT), '%Y-%m-%d %H:%M:%S')
            END AS listen_time
    FROM (SELECT i, CASE WHEN i % 250 = 3 THEN i - 1 ELSE i END AS j FROM range({rows.start}, {rows.stop}) AS t(i))
    """  # noqa: S608
