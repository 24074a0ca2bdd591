"""A tiny input with every fate in it: what a first day brings, and what comes the day after."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

SONGS_HEADER = "id,track_id,artists,album_name,track_name,popularity,duration_ms,explicit,track_genre"
STREAMS_HEADER = "user_id,track_id,listen_time"
USERS_HEADER = "user_id,user_name,user_age,user_country,created_at"
DAY_ONE, DAY_TWO, DAY_THREE = "2024-06-24", "2024-06-25", "2024-06-26"
TRACKS = 16
LISTENS = 45


@dataclass(frozen=True)
class Sample:
    """Two input folders; the second holds the first's files, one of them corrected, and new ones."""

    first: Path
    second: Path


def write_sample(folder: Path) -> Sample:
    """Write both folders, with modification times that are always the same."""
    sample = Sample(folder / "first", folder / "second")
    day_one = _first_day()
    _write(sample.first, day_one, hour=1)
    _write(sample.second, day_one, hour=1)
    _write(sample.second, _second_day(day_one), hour=30)
    return sample


def _first_day() -> dict[str, list[str]]:
    both_days = _listens(1, [DAY_ONE, DAY_TWO])
    return {
        "songs/songs.csv": [SONGS_HEADER, *_songs(), "99,t1,A,Album,Song 1,50,-1,False,pop"],
        "users/users.csv": [USERS_HEADER, *(f"{n},User {n},{20 + n},DE,2024-01-0{n}" for n in range(1, 8))],
        # A duplicate, a bad row, a track whose song comes the day after, a user that is unknown.
        "streams/both.csv": [
            STREAMS_HEADER,
            *both_days,
            both_days[3],
            f"7,t2,{DAY_ONE} 25:00:00",
            f"3,t-later,{DAY_TWO} 12:30:00",
            f"77,t4,{DAY_TWO} 13:00:00",
        ],
        # Listens that the other file has too: they count once.
        "streams/two.csv": [STREAMS_HEADER, *_listens(2, [DAY_TWO]), *both_days[-5:]],
    }


def _second_day(before: dict[str, list[str]]) -> dict[str, list[str]]:
    bad = [f"nobody,t{n},never" for n in range(1, 6)]
    return {
        # The song that was waited for, and one that changes for all days.
        "songs/more.csv": [
            SONGS_HEADER,
            "50,t-later,Late Artist,Album,Late Song,80,150000,False,jazz",
            "51,t3,C;D,Album,Song 3,99,123456,False,rock",
        ],
        # Corrected: the bad row is mended, another is bad now, some are gone.
        "streams/both.csv": [
            *before["streams/both.csv"][:-14],
            f"7,t2,{DAY_ONE} 23:00:00",
            f"5,t5,{DAY_ONE} 26:00:00",
            f"3,t-later,{DAY_TWO} 12:30:00",
        ],
        "streams/late.csv": [STREAMS_HEADER, *_listens(3, [DAY_ONE])],
        "streams/new.csv": [STREAMS_HEADER, *_listens(4, [DAY_THREE]), f"x,t1,{DAY_THREE} 10:00:00"],
        "streams/refused.csv": [STREAMS_HEADER, *_listens(5, [DAY_THREE])[:5], *bad],
    }


def _songs() -> list[str]:
    genres = ["pop", "rock", "jazz"]
    return [
        f"{n},t{n},Artist {n % 4};Guest {n % 3},Album,Song {n},{n * 7 % 50},{150_000 + n * 1000},False,{genre}"
        for n in range(1, TRACKS + 1)
        for genre in sorted({genres[n % 3], genres[n % 2]})
    ]


def _listens(seed: int, days: list[str]) -> list[str]:
    random = Random(seed)
    rows = []
    for number in range(LISTENS):
        moment = datetime.fromisoformat(days[number % len(days)]) + timedelta(seconds=random.randrange(86_400))
        rows.append(f"{random.randint(1, 7)},t{random.randint(1, TRACKS)},{moment}")
    return rows


def _write(folder: Path, files: dict[str, list[str]], hour: int) -> None:
    for minute, (name, lines) in enumerate(files.items()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n", "utf-8")
        modified = datetime(2024, 6, 27, tzinfo=UTC) + timedelta(hours=hour, minutes=minute)
        os.utime(path, (modified.timestamp(), modified.timestamp()))
