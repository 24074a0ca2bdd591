"""A small, deterministic sample of CSV files in the layout `{streams,songs,users}/`.

Made-up people, artists and songs; every byte and every modification time is the same on each call. Besides
plays as skewed as real ones, it holds what real files hold: a late file, rows that come twice, bad rows, one
wholly bad file, an extra column, a gzip file, a file as Windows writes it, a song that is listed only after
its first plays and a track that no songs file knows.

    python -m tools.sample_data DIR
"""

from __future__ import annotations

import csv
import gzip
import io
import os
import random
import sys
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from itertools import accumulate
from pathlib import Path

SEED = 20240624
DAYS = tuple(date(2024, 6, 24) + timedelta(days=n) for n in range(5))
LISTENS_A_DAY = 560
LATE_DAY = DAYS[1]
LATE_LISTENS = 90
LISTENERS = 160
USERS_FILE_MODIFIED = datetime(2024, 6, 20, 6, tzinfo=UTC)
SONGS_FILE_MODIFIED = datetime(2024, 6, 20, 7, tzinfo=UTC)
NEW_SONGS_FILE_MODIFIED = datetime(2024, 6, 29, 7, tzinfo=UTC)
LATE_FILE_MODIFIED = datetime(2024, 6, 30, 9, 30, tzinfo=UTC)
BROKEN_FILE_MODIFIED = datetime(2024, 6, 29, 12, tzinfo=UTC)

STREAM_COLUMNS = ("user_id", "track_id", "listen_time")
SONG_COLUMNS = (
    "id",
    "track_id",
    "artists",
    "album_name",
    "track_name",
    "popularity",
    "duration_ms",
    "explicit",
    "track_genre",
)
USER_COLUMNS = ("user_id", "user_name", "user_age", "user_country", "created_at")

# Genre and how much of all plays it gets.
GENRES = (
    ("pop", 22),
    ("hip-hop", 16),
    ("rock", 13),
    ("latin", 10),
    ("electronic", 9),
    ("k-pop", 8),
    ("country", 6),
    ("indie", 5),
    ("jazz", 4),
    ("classical", 3),
    ("metal", 3),
    ("reggae", 1),
)
# Plays by hour of the day, UTC: a morning bump, a long evening, a quiet night.
HOURS = (3, 2, 1, 1, 1, 2, 5, 9, 10, 7, 6, 6, 7, 7, 7, 8, 10, 12, 14, 15, 14, 11, 8, 5)
ARTISTS = {
    "pop": ("Nova Kincaid", "Žofie Večerní", "The Paper Lanterns", "Ana & the Harbour, Inc."),
    "hip-hop": ("Big Quill", 'Lil "Static" Moss', "DJ Ohm", "Cornerstore Choir"),
    "rock": ("Velvet Antlers", "Ghost on Elm Street", "Grindstone 5"),
    "latin": ("Los Faroles", "Marisol Ibáñez", "Niño Cometa"),
    "electronic": ("Aurora Modem", "Kleinhertz", "0xCAFÉ"),
    "k-pop": ("별빛소녀", "MIRAE8", "Haneul"),
    "country": ("Dusty Calloway", "The Gravel Sisters"),
    "indie": ("Øystein & Fjord", "Tin Can Telephone", "moth season"),
    "jazz": ("Blue Ledger Trio", "Imani Okafor Quartet"),
    "classical": ("Orchestre de l'Étang", "Clara Weißhaupt"),
    "metal": ("Ironwood Requiem", "Sköllhammar"),
    "reggae": ("Island Ledger", "Sista Marlowe"),
}
FIRST_WORDS = ("Midnight", "Paper", "Golden", "Electric", "Slow", "Broken", "Summer", "Hollow", "Silver", "Último")
SECOND_WORDS = ("Trains", "Hearts", "Horizon", "Postcards", "Mañana", "Signals", "River", "Neon", "Kitchen", "Tide")
# Titles that break careless readers.
SPECIAL_TITLES = {
    "pop": 'Say "Maybe", Baby',
    "hip-hop": "10,000 Corners",
    "k-pop": "밤하늘의 별 (Starlight)",
    "electronic": "Ctrl; Alt; Dance",
    "latin": "Corazón, Corazón",
    "classical": 'Prélude in "E", Op. 7, No. 2',
}
SECOND_GENRE = {"pop": "latin", "indie": "rock", "k-pop": "pop", "electronic": "pop", "jazz": "classical"}
FIRST_NAMES = ("Ada", "Björn", "Chloé", "Darnell", "Emeka", "Farah", "Giulia", "Hana", "Iker", "Jürgen", "Kim", "Léa")
LAST_NAMES = ("Abbott", "Brandão", "Castillo", "Dvořák", "Eze", "Fontaine", "Grünwald", "Haddad", 'O"Neil', "Sato")
COUNTRIES = ("United States", "Brazil", "Germany", "South Korea", "Nigeria", "Côte d'Ivoire", "Korea, Republic of")


@dataclass(frozen=True)
class Song:
    """One row of a songs file, as written there."""

    id: int
    track_id: str
    artists: str
    album_name: str
    track_name: str
    popularity: str
    duration_ms: int
    explicit: bool
    track_genre: str

    def cells(self) -> tuple[object, ...]:
        return (
            self.id,
            self.track_id,
            self.artists,
            self.album_name,
            self.track_name,
            self.popularity,
            self.duration_ms,
            self.explicit,
            self.track_genre,
        )


class Dice:
    """Draws built on `Random.random` alone, whose sequence is the same in every Python version."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def below(self, limit: int) -> int:
        return int(self._random.random() * limit)

    def weighted(self, cumulative: Sequence[float]) -> int:
        """The position drawn from cumulative weights."""
        return bisect_left(cumulative, self._random.random() * cumulative[-1])

    def track_id(self) -> str:
        letters = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
        return "".join(letters[self.below(len(letters))] for _ in range(22))


def make_sample_data(directory: Path) -> None:
    """Write the sample below `directory`, over files of the same names."""
    dice = Dice(SEED)
    songs = _songs(dice)
    late_song = Song(
        900, dice.track_id(), "Nova Kincaid;Big Quill", "Surprise Drop", "Out of Nowhere", "91", 187_250, False, "pop"
    )
    unknown_track = dice.track_id()
    _write_users(directory, dice)
    _write_songs(directory, songs, late_song)
    _write_streams(directory, dice, songs, late_song.track_id, unknown_track)


def _songs(dice: Dice) -> list[Song]:
    """Nine songs a genre, the most played first; the third one of some genres is listed in a second genre too."""
    songs = []
    for number, (genre, _) in enumerate(GENRES):
        for place in range(9):
            title = f"{FIRST_WORDS[(number * 3 + place) % 10]} {SECOND_WORDS[(number * 7 + place * 3) % 10]}"
            if place == 1:
                title = SPECIAL_TITLES.get(genre, title)
            song = Song(
                id=100 + number * 20 + place,
                track_id=dice.track_id(),
                artists=_artists(genre, place, dice),
                album_name=f"{title} (Deluxe, Remastered)" if place % 4 == 0 else title,
                track_name=title,
                popularity="" if place == 8 else str(max(5, 92 - 9 * place - dice.below(8))),
                duration_ms=121_000 + dice.below(160_000),
                explicit=dice.below(6) == 0,
                track_genre=genre,
            )
            songs.append(song)
            if place == 2 and genre in SECOND_GENRE:
                songs.append(replace(song, id=song.id + 10, track_genre=SECOND_GENRE[genre]))
    return songs


def _artists(genre: str, place: int, dice: Dice) -> str:
    names = ARTISTS[genre]
    first = names[place % len(names)]
    if place not in (2, 5):
        return first
    guests = ARTISTS[GENRES[dice.below(len(GENRES))][0]]
    return f"{first}; {guests[dice.below(len(guests))]}"


def _write_users(directory: Path, dice: Dice) -> None:
    rows: list[tuple[object, ...]] = []
    for user_id in range(1, LISTENERS + 1):
        name = f"{FIRST_NAMES[dice.below(len(FIRST_NAMES))]} {LAST_NAMES[dice.below(len(LAST_NAMES))]}"
        created = date(2023, 1, 1) + timedelta(days=dice.below(500))
        rows.append((user_id, name, 16 + dice.below(60), COUNTRIES[dice.below(len(COUNTRIES))], created))
    rows.append((7, "Ada Abbott", "", "Germany", date(2022, 5, 1)))  # an older row of user 7
    _write(directory / "users" / "users.csv", _csv(USER_COLUMNS, rows), USERS_FILE_MODIFIED)


def _write_songs(directory: Path, songs: list[Song], late_song: Song) -> None:
    less_popular = replace(songs[0], id=890, popularity="3")
    negative = replace(songs[3], id=891, duration_ms=-1)
    rows = [song.cells() for song in (*songs, less_popular, negative)]
    _write(directory / "songs" / "songs.csv", _csv(SONG_COLUMNS, rows), SONGS_FILE_MODIFIED)
    risen = replace(songs[4], popularity="97")
    newer = _csv(SONG_COLUMNS, [song.cells() for song in (late_song, risen)])
    _write(directory / "songs" / "songs_2024-06-29.csv", newer, NEW_SONGS_FILE_MODIFIED)


def _write_streams(directory: Path, dice: Dice, songs: list[Song], late_track: str, unknown_track: str) -> None:
    plays = _Plays(dice, songs)
    days = {day: plays.day(day, LISTENS_A_DAY) for day in DAYS}
    for number, day in enumerate(DAYS):
        days[day] += [(9 + number, late_track, f"{day} 20:{minute:02d}:30") for minute in range(0, 12 - number, 2)]
        days[day] += _ties(day, songs)
    days[DAYS[2]] += [(user, unknown_track, f"{DAYS[2]} 18:{user}:00") for user in (21, 22, 23, 24)]
    days[DAYS[3]] += [(100_001, songs[0].track_id, f"{DAYS[3]} 08:15:00")]  # a listener of no users file

    streams = directory / "streams"
    first, second, third, fourth, fifth = (days[day] for day in DAYS)
    _write(streams / "streams_2024-06-24.csv", _csv(STREAM_COLUMNS, [*first, *first[:7]]), _next_morning(DAYS[0]))
    devices = ("phone", "car", 'speaker, 7"')
    with_device = [(*row, devices[number % 3]) for number, row in enumerate(second)]
    _write(streams / "streams_2024-06-25.csv", _csv((*STREAM_COLUMNS, "device"), with_device), _next_morning(DAYS[1]))
    windows = "\ufeff" + _csv(STREAM_COLUMNS, third).replace("\n", "\r\n")
    _write(streams / "streams_2024-06-26.csv", windows, _next_morning(DAYS[2]))
    _write(streams / "streams_2024-06-27.csv.gz", _csv(STREAM_COLUMNS, fourth), _next_morning(DAYS[3]))
    _write(streams / "streams_2024-06-28.csv", _with_bad_lines(_csv(STREAM_COLUMNS, fifth)), _next_morning(DAYS[4]))
    late = [*plays.day(LATE_DAY, LATE_LISTENS), *second[40:52]]  # some listens that another file holds too
    _write(streams / "streams_2024-06-25_late.csv", _csv(STREAM_COLUMNS, late), LATE_FILE_MODIFIED)
    broken = [("?", row[1], "not a time") for row in first[:40]]
    _write(streams / "streams_test_export.csv", _csv(STREAM_COLUMNS, broken), BROKEN_FILE_MODIFIED)


class _Plays:
    """Draws listens: few songs and few listeners have most of the plays."""

    def __init__(self, dice: Dice, songs: list[Song]) -> None:
        self._dice = dice
        self._songs: dict[str, list[Song]] = {genre: [] for genre, _ in GENRES}
        for song in songs:
            self._songs[song.track_genre].append(song)
        self._genres = list(accumulate(float(weight) for _, weight in GENRES))
        self._places = list(accumulate(1 / (place + 1) for place in range(9)))
        self._listeners = list(accumulate(1 / (place + 6) for place in range(LISTENERS)))
        self._hours = list(accumulate(float(weight) for weight in HOURS))

    def day(self, day: date, count: int) -> list[tuple[object, ...]]:
        dice = self._dice
        rows: list[tuple[object, ...]] = []
        for _ in range(count):
            genre = GENRES[dice.weighted(self._genres)][0]
            song = self._songs[genre][dice.weighted(self._places)]
            user = 1 + dice.weighted(self._listeners) * 7 % LISTENERS
            moment = f"{dice.weighted(self._hours):02d}:{dice.below(60):02d}:{dice.below(60):02d}"
            rows.append((user, song.track_id, f"{day} {moment}"))
        return rows


def _ties(day: date, songs: list[Song]) -> list[tuple[object, ...]]:
    """The same number of plays for every reggae song, so that ranks rest on popularity and track id."""
    reggae = [song for song in songs if song.track_genre == "reggae"]
    return [(30 + place, song.track_id, f"{day} 12:{place:02d}:00") for place, song in enumerate(reggae)]


def _with_bad_lines(text: str) -> str:
    """Put one bad line of each kind among the good ones (below 5 % of all)."""
    lines = text.splitlines()
    bad = (
        "12,,2024-06-28 10:00:00",
        ",,",
        "twelve,0000000000000000000000,2024-06-28 10:00:00",
        "12,0000000000000000000000,2024-02-30 10:00:00",
        "12,0000000000000000000000,28.06.2024 10:00:00",
        "12,0000000000000000000000,2031-01-01 00:00:00",
        "12,0000000000000000000000,1970-01-01 00:00:00",
        '12,"0000000000000000000000,2024-06-28 10:00:00',
        "12,0000000000000000000000",
        "12,0000000000000000000000,2024-06-28 10:00:00,phone,wifi",
        ",".join(STREAM_COLUMNS),
    )
    for number, line in enumerate(bad):
        lines.insert(15 + 40 * number, line)
    return "\n".join(lines) + "\n"


def _next_morning(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1, minutes=30)


def _csv(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


def _write(path: Path, text: str, modified: datetime) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = text.encode("utf-8")
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    os.utime(path, (modified.timestamp(), modified.timestamp()))


def main(arguments: Sequence[str]) -> int:
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m tools.sample_data DIR", file=sys.stderr)
        return 2
    make_sample_data(Path(arguments[0]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
