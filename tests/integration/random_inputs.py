"""Random small inputs in two steps, made to hit what engines do differently: ties, halves, zones, quotes, order."""

from __future__ import annotations

import csv
import gzip
import io
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from tests.integration.application import NewFile
from tests.oracle import zones

# Local times near which clocks change (or nothing happens).
MOMENTS = {
    "UTC": ("2024-02-29 23:30",),
    "Asia/Kolkata": ("2024-06-25 00:10",),
    "Europe/Berlin": ("2024-03-31 02:30", "2024-10-27 02:30"),
    "Australia/Lord_Howe": ("2024-04-07 01:45", "2024-10-06 02:15"),
    "America/St_Johns": ("2024-03-10 02:30", "2024-11-03 01:30", "2010-11-07 00:00", "2011-03-13 00:30"),
}
ZONES = tuple(MOMENTS)
# UTF-8 and UTF-16 order the last two of each differently; case, accents and leading zeros matter.
TRACKS = ("a", "B", "é", "007", "7", "Zz", "t,1", 't"2', "x y", "tie1", "tie2", "tie3", "late", "\uff21", "\U0001d400")
UNKNOWN_TRACK = "nowhere"
GENRES = ("pop", "Pop", "hip-hop", "é-pop", "r&b, soul", "\uff30op", "\U0001d40fop")
ARTISTS = ("ann", "Ann", "Émile", 'Bob "B" Berg', "Lee, Jr.", "\uff21nn", "\U0001d400nn")
STREAM_COLUMNS = ("user_id", "track_id", "listen_time")
SONG_COLUMNS = ("id", "track_id", "artists", "album_name", "track_name", "popularity", "duration_ms", "track_genre")


@dataclass(frozen=True)
class Scenario:
    """`steps` are the files that arrive before each run; the rest says how to make them again."""

    seed: int
    source_zone: str
    kpi_zone: str
    steps: tuple[tuple[NewFile, ...], ...] = field(repr=False)


def make_scenario(seed: int, source_zone: str, kpi_zone: str) -> Scenario:
    steps = _Maker(random.Random(seed), source_zone, kpi_zone).steps()
    return Scenario(seed, source_zone, kpi_zone, steps)


def shuffled(file: NewFile, seed: int) -> NewFile:
    """The same records in another order (for files that hold no line end within quotes, and no bytes but text)."""
    header, *lines = file.content.decode("utf-8").splitlines(keepends=True)
    lines = [line if line.endswith("\n") else f"{line}\n" for line in lines]
    random.Random(seed).shuffle(lines)
    return NewFile(file.name, "".join([header, *lines]).encode("utf-8"), file.modified)


class _Maker:
    def __init__(self, dice: random.Random, source_zone: str, kpi_zone: str) -> None:
        self._dice = dice
        self._source_zone = source_zone
        zone = ZoneInfo(dice.choice((source_zone, kpi_zone)))
        there = datetime.fromisoformat(dice.choice(MOMENTS[zone.key])).replace(tzinfo=zone)
        # The clock's change, as the source's clock shows it.
        self._middle = there.astimezone(UTC).astimezone(ZoneInfo(source_zone)).replace(tzinfo=None)
        self._modified = there.astimezone(UTC) + timedelta(days=4)
        self._users = [1, 2, 3, 4, 5, 9_007_199_254_740_993, -8]

    def steps(self) -> tuple[tuple[NewFile, ...], ...]:
        dice = self._dice
        streams = [self._listens(dice.randint(40, 110)) for _ in range(dice.randint(2, 3))]
        streams[1] += dice.sample(streams[0], 12)  # the same listens in another file
        first = [
            self._songs_file("songs/songs.csv", TRACKS[:-3] + TRACKS[-2:], hours=0),
            self._users_file("users/users.csv", hours=0),
            *(self._stream_file(f"streams/day {number}.csv", rows) for number, rows in enumerate(streams)),
        ]
        corrected = [*streams[0][: len(streams[0]) // 2], *self._listens(15)]
        second = [
            self._songs_file("songs/songs-newer.csv", ["late", *dice.sample(TRACKS, 3)], hours=5),
            self._songs_file("songs/songs-older.csv", dice.sample(TRACKS, 4), hours=-5),
            self._songs_file("songs/songs-same-time.csv", dice.sample(TRACKS, 4), hours=5),
            self._users_file("users/users-newer.csv", hours=5),
            self._stream_file("streams/late=50%.csv", [*self._listens(30), *dice.sample(streams[1], 5)]),
            self._stream_file("streams/day 0.csv", corrected, hours=9),
        ]
        return tuple(first), tuple(second)

    def _listens(self, count: int) -> list[Sequence[str]]:
        dice = self._dice
        rows: list[Sequence[str]] = []
        for _ in range(count):
            track = dice.choice(TRACKS) if dice.random() < 0.97 else UNKNOWN_TRACK
            rows.append((str(dice.choice(self._users)), track, self._moment()))
        for track in ("tie1", "tie2", "tie3"):
            rows += [(str(user), track, str(self._middle + timedelta(days=1))) for user in (1, 2)]
        rows += [self._said_otherwise(row) for row in dice.sample(rows, 5)]
        dice.shuffle(rows)
        return rows

    def _moment(self) -> str:
        """On a coarse grid, so that instants repeat; seldom one that the clock leaves out."""
        dice = self._dice
        while True:
            quarters = dice.randint(-16, 16) if dice.random() < 0.7 else dice.randint(-200, 200)
            moment = self._middle + timedelta(minutes=15 * quarters)
            if dice.random() < 0.2:
                moment -= timedelta(microseconds=1)
            if dice.random() < 0.02 or not zones.is_skipped(moment, ZoneInfo(self._source_zone)):
                return str(moment)

    def _said_otherwise(self, row: Sequence[str]) -> Sequence[str]:
        """The same listen in other characters."""
        user, track, moment = row
        said = moment.replace(" ", "T") if self._dice.random() < 0.5 else f" {moment}\t"
        if "." not in moment and self._dice.random() < 0.5:
            said = f"{moment}.000"
        return user if user.startswith("-") else f"+0{user}", f"{track} ", said

    def _bad_listen(self) -> str:
        good = f'1,"{self._dice.choice(TRACKS[:6])}",{self._middle}'
        return self._dice.choice(
            (
                good.replace("1,", ",", 1),
                good.replace("1,", "1.0,", 1),
                good.replace("1,", "9223372036854775808,", 1),
                good + ",more,fields",
                good + '"',
                "1,a,2024-02-30 00:00:00",
                f"1,a,{self._middle}Z",
                f"1,,{self._middle + timedelta(days=30)}",
                "1,a",
                ",,",
                "x,a,1999-12-31 23:59:59.999999",
            )
        )

    def _stream_file(self, name: str, rows: list[Sequence[str]], hours: int = 0) -> NewFile:
        dice = self._dice
        columns = list(STREAM_COLUMNS)
        if dice.random() < 0.4:
            columns.append("Device, or none")
            rows = [(*row, dice.choice(("", 'a "phone"', "car, old"))) for row in rows]
        order = dice.sample(range(len(columns)), len(columns)) if dice.random() < 0.5 else range(len(columns))
        text = _csv([columns[place] for place in order], [[row[place] for place in order] for row in rows], dice)
        lines = text.splitlines()
        if columns == list(STREAM_COLUMNS) and list(order) == [0, 1, 2]:
            for _ in range(dice.randint(0, len(rows) // 30)):
                lines.insert(dice.randint(1, len(lines)), dice.choice((self._bad_listen(), self._bad_listen(), "  ")))
        return self._file(name, lines, hours)

    def _songs_file(self, name: str, tracks: Sequence[str], hours: int) -> NewFile:
        dice = self._dice
        rows = []
        for track in tracks:
            for genre in dice.sample(GENRES, dice.choice((1, 1, 2, 3))):
                rows += [self._song(track, genre) for _ in range(dice.choice((1, 1, 1, 2, 3)))]
        for number in range(30):
            rows.append(self._song(f"filler{number}", "filler"))
        rows.append([*self._song("a", "pop")[:6], "-1", "pop"])
        dice.shuffle(rows)
        return self._file(name, _csv(SONG_COLUMNS, rows, dice).split("\n")[:-1], hours)

    def _song(self, track: str, genre: str) -> list[str]:
        dice = self._dice
        popularity = "50" if track.startswith("tie") else dice.choice(("", "0", "1", "50", "50", "99", "100"))
        artists = dice.choice(("; ", ";", ";;")).join(dice.choices(ARTISTS, k=dice.randint(1, 3)))
        title = dice.choice(("Song", "A, B", 'Say "Hi"', "two\nlines", "  padded  ", "Ünï")) + f" {track}"
        number = str(dice.randint(1, 10**15))  # unique enough, so that no tie is left without a rule
        album = dice.choice(("", "One", "one", "Ünï", "\uff21", "\U0001d400"))
        return [number, track, artists, album, title, popularity, str(dice.randint(0, 9_999)), genre]

    def _users_file(self, name: str, hours: int) -> NewFile:
        countries = ("", "Peru", "peru", "Côte d'Ivoire", " Chile ")
        rows = [(str(user), "Ann", self._dice.choice(countries), "2024-01-01") for user in self._users[:-1]]
        columns = ("user_id", "name", "user_country", "created_at")
        return self._file(name, _csv(columns, rows, self._dice).splitlines(), hours)

    def _file(self, name: str, lines: list[str], hours: int) -> NewFile:
        """With one of the line ends, marks and compressions that are allowed."""
        dice = self._dice
        end = dice.choice(("\n", "\n", "\r\n"))
        text = dice.choice(("", "", "\ufeff")) + end.join(lines) + dice.choice(("", end, end + end))
        return NewFile(name, text.encode("utf-8"), self._modified + timedelta(hours=hours))


def zipped(file: NewFile) -> NewFile:
    return NewFile(f"{file.name}.gz", gzip.compress(file.content), file.modified)


def _csv(columns: Sequence[str], rows: Sequence[Sequence[str]], dice: random.Random) -> str:
    text = io.StringIO()
    if dice.random() < 0.3:
        writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    else:
        writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()
