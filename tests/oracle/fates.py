"""What becomes of one file and of each of its rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar
from zoneinfo import ZoneInfo

from tests.oracle import rules
from tests.oracle.records import FileRejectedError, Record, read_table
from tests.oracle.rules import Listen, Song, User


@dataclass(frozen=True)
class SourceFile:
    """A file as found: `name` is `streams/a.csv`, `modified` in microseconds since 1970."""

    dataset: str
    name: str
    content: bytes
    modified: int


@dataclass(frozen=True)
class BadRow:
    line_number: int
    raw: str
    reasons: frozenset[str]


@dataclass(frozen=True)
class FileFate:
    """Counts are of records; a file rejected before its rows could be told has none."""

    dataset: str
    name: str
    outcome: str  # accepted, rejected, already_staged
    reason: str | None = None
    rows: int = 0
    valid: int = 0
    duplicates: int = 0
    quarantined: int = 0
    waiting: int = 0
    unknown_users: int = 0
    bad_rows: tuple[BadRow, ...] = ()

    def quarantined_by_reason(self) -> dict[str, int]:
        return dict(Counter(reason for row in self.bad_rows for reason in row.reasons))


@dataclass(frozen=True)
class Known:
    """What listens are held against: the tracks and users staged so far."""

    tracks: frozenset[str]
    users: frozenset[int]


@dataclass(frozen=True)
class Limits:
    max_quarantined_share: Fraction = Fraction(5, 100)
    max_waiting_share: Fraction = Fraction(20, 100)


Row = TypeVar("Row", Song, User)
Checked = Listen | Song | User | list[str]


def judge_streams(file: SourceFile, known: Known, zone: ZoneInfo, limits: Limits) -> tuple[FileFate, list[Listen]]:
    def check(record: Record) -> Checked:
        return rules.check_listen(record.values, zone, file.modified)

    fate, good = _judge(file, check, limits)
    if fate.outcome == "rejected":
        return fate, []
    listens = [listen for _, listen in good if isinstance(listen, Listen)]
    waiting_before = sum(listen.track_id not in known.tracks for listen in listens)
    kept = list(dict.fromkeys(listens))
    outcome, reason = "accepted", None
    if waiting_before > limits.max_waiting_share * fate.rows:
        outcome, reason = "rejected", "too_many_waiting"
    counted = FileFate(
        dataset=fate.dataset,
        name=fate.name,
        outcome=outcome,
        reason=reason,
        rows=fate.rows,
        valid=len(kept),
        duplicates=len(listens) - len(kept),
        quarantined=fate.quarantined,
        waiting=sum(listen.track_id not in known.tracks for listen in kept),
        unknown_users=sum(listen.user_id not in known.users for listen in kept),
        bad_rows=fate.bad_rows,
    )
    return counted, kept if outcome == "accepted" else []


def judge_songs(file: SourceFile, limits: Limits) -> tuple[FileFate, list[Song]]:
    """One row of each (track_id, track_genre): the most popular, then the smallest id."""
    fate, good = _judge(file, lambda record: rules.check_song(record.values), limits)
    songs = [(record, song) for record, song in good if isinstance(song, Song)]
    songs.sort(key=lambda pair: (-pair[1].popularity, pair[1].id is None, pair[1].id or 0, pair[0].raw))
    kept = _first_of_each(songs, lambda song: (song.track_id, song.track_genre))
    return _with_duplicates(fate, len(kept)), kept if fate.outcome == "accepted" else []


def judge_users(file: SourceFile, limits: Limits) -> tuple[FileFate, list[User]]:
    """One row of each user_id: the newest created_at as text, then the smallest raw record."""
    fate, good = _judge(file, lambda record: rules.check_user(record.values), limits)
    users = [(record, user) for record, user in good if isinstance(user, User)]
    users.sort(key=lambda pair: pair[0].raw)
    users.sort(key=lambda pair: pair[1].created_at, reverse=True)
    kept = _first_of_each(users, lambda user: user.user_id)
    return _with_duplicates(fate, len(kept)), kept if fate.outcome == "accepted" else []


def _judge(
    file: SourceFile, check: Callable[[Record], Checked], limits: Limits
) -> tuple[FileFate, list[tuple[Record, Checked]]]:
    """All rows checked; `valid` still counts duplicates."""
    if file.name.rpartition("/")[2].startswith("_"):
        return FileFate(file.dataset, file.name, "rejected", "hidden_name"), []
    if ":" in file.name and any(character in file.name for character in "{}[]*?\\"):
        return FileFate(file.dataset, file.name, "rejected", "unreadable_name"), []
    try:
        required, optional = rules.REQUIRED[file.dataset], rules.OPTIONAL[file.dataset]
        table = read_table(file.name, file.content, required, optional, multi_line=file.dataset != "streams")
    except FileRejectedError as error:
        return FileFate(file.dataset, file.name, "rejected", error.reason), []
    good: list[tuple[Record, Checked]] = []
    bad: list[BadRow] = []
    for record in table.records:
        checked: Checked = [record.problem] if record.problem else check(record)
        if isinstance(checked, list):
            bad.append(BadRow(record.line_number, record.raw, frozenset(checked)))
        else:
            good.append((record, checked))
    rows = len(table.records)
    too_many = len(bad) > limits.max_quarantined_share * rows
    fate = FileFate(
        dataset=file.dataset,
        name=file.name,
        outcome="rejected" if too_many else "accepted",
        reason="too_many_quarantined" if too_many else None,
        rows=rows,
        valid=len(good),
        quarantined=len(bad),
        bad_rows=tuple(bad),
    )
    return fate, good


def _first_of_each(rows: Iterable[tuple[Record, Row]], key: Callable[[Row], Hashable]) -> list[Row]:
    kept: dict[Hashable, Row] = {}
    for _, row in rows:
        kept.setdefault(key(row), row)
    return list(kept.values())


def _with_duplicates(fate: FileFate, kept: int) -> FileFate:
    return FileFate(
        dataset=fate.dataset,
        name=fate.name,
        outcome=fate.outcome,
        reason=fate.reason,
        rows=fate.rows,
        valid=kept,
        duplicates=fate.valid - kept,
        quarantined=fate.quarantined,
        bad_rows=fate.bad_rows,
    )
