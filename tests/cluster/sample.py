"""Files with enough listens that Spark plans for many: a first day, and what comes the day after."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

SONGS_HEADER = "id,track_id,artists,album_name,track_name,popularity,duration_ms,explicit,track_genre"
TRACKS, USERS, GENRES, DAYS = 400, 300, 12, 3
LISTENS_PER_FILE, FILES = 43_000, 7


@dataclass(frozen=True)
class Delivery:
    """What arrives at once: by name below the input, each file's text."""

    files: dict[str, str]


def deliveries() -> tuple[Delivery, Delivery]:
    """The first day; then a file corrected, one late, songs changed."""
    random = Random(24)
    files = [list(_listens(random)) for _ in range(FILES)]
    files[1][:2000] = files[0][:2000]  # the same listens in two files
    first = {
        "songs/songs.csv": _csv(SONGS_HEADER, _songs(random, range(TRACKS))),
        "users/users.csv": _csv(
            "user_id,user_name,user_age,user_country,created_at",
            (f"{n},User {n},{18 + n % 60},{['DE', 'FR', 'JP'][n % 3]},2024-01-01" for n in range(1, USERS + 1)),
        ),
        **{f"streams/{number}.csv": _csv("user_id,track_id,listen_time", rows) for number, rows in enumerate(files)},
    }
    corrected = [*files[0][::2], *_listens(random, 500), "x,t1,2024-06-24 10:00:00"]
    second = {
        "songs/changed.csv": _csv(SONGS_HEADER, _songs(random, range(0, TRACKS, 7))),
        "streams/0.csv": _csv("user_id,track_id,listen_time", corrected),
        "streams/late.csv": _csv("user_id,track_id,listen_time", _listens(random, 2000)),
    }
    return Delivery(first), Delivery(second)


def _csv(header: str, rows: Iterator[str] | list[str]) -> str:
    return "\n".join([header, *rows, ""])


def _songs(random: Random, numbers: range) -> Iterator[str]:
    for n in numbers:
        for genre in {f"genre {n % GENRES}", f"genre {random.randrange(GENRES)}"}:
            artists = f"Artist {n % 40};Artist {random.randrange(40)}"
            yield f"{n},t{n},{artists},Album {n % 90},Song {n},{random.randrange(100)},{60_000 + n * 500},False,{genre}"


def _listens(random: Random, count: int = LISTENS_PER_FILE) -> Iterator[str]:
    for number in range(count):
        if number % 5000 == 4999:
            yield f"nobody,t1,2024-06-{24 + number % DAYS} 25:00:00"
        time = f"{random.randrange(24):02}:{random.randrange(60):02}:{random.randrange(60):02}"
        day = 24 + random.randrange(DAYS)
        yield f"{random.randint(1, USERS + 3)},t{int(TRACKS * random.random() ** 2)},2024-06-{day} {time}"
