"""The rules a row must keep, each with its reason code, and the typed rows that pass."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from tests.oracle import zones
from tests.oracle.records import ASCII_SPACE

REQUIRED = {
    "streams": ("user_id", "track_id", "listen_time"),
    "songs": ("track_id", "artists", "track_name", "duration_ms", "track_genre"),
    "users": ("user_id",),
}
OPTIONAL = {
    "streams": (),
    "songs": ("id", "album_name", "popularity"),
    "users": ("user_name", "user_age", "user_country", "created_at"),
}
# Columns whose values may be any text, and how many bytes it has at most.
LONGEST_TEXT = {
    "streams": {"track_id": 4096},
    "songs": {"track_id": 4096, "artists": 4096, "album_name": 4096, "track_name": 4096, "track_genre": 1000},
    "users": {"user_name": 4096, "user_country": 4096, "created_at": 4096},
}
WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,19}")
LISTEN_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?)(?:(Z)|([+-])([0-9]{2}):?([0-9]{2}))?"
)
LARGEST_OFFSET = 18 * 60
OLDEST_LISTEN = datetime(2000, 1, 1)
DAY = 24 * zones.HOUR
LONGEST_TRACK_MS = 86_400_000


@dataclass(frozen=True)
class Listen:
    user_id: int
    track_id: str
    instant: int  # microseconds since 1970


@dataclass(frozen=True)
class Song:
    id: int | None
    track_id: str
    artists: str
    track_name: str
    popularity: int
    duration_ms: int
    track_genre: str
    album_name: str


@dataclass(frozen=True)
class User:
    user_id: int
    created_at: str
    country: str


def text_reasons(dataset: str, values: Mapping[str, str]) -> list[str]:
    reasons = [f"missing_{column}" for column in REQUIRED[dataset] if not values[column]]
    for column, longest in LONGEST_TEXT[dataset].items():
        if len(values.get(column, "").encode()) > longest:
            reasons.append(f"too_long_{column}")
    return reasons


def check_listen(values: Mapping[str, str], zone: ZoneInfo, modified: int) -> Listen | list[str]:
    """`modified`: the file's modification time, microseconds since 1970."""
    reasons = text_reasons("streams", values)
    user_id = whole_number(values["user_id"])
    if values["user_id"] and user_id is None:
        reasons.append("invalid_user_id")
    written = _listen_time(values["listen_time"])
    if written is None:
        if values["listen_time"]:
            reasons.append("invalid_listen_time")
        return reasons
    local, offset = written
    instant = zones.to_instant(local, zone) if offset is None else zones.micros(local) - offset * zones.MINUTE
    if (local < OLDEST_LISTEN) if offset is None else (instant < zones.micros(OLDEST_LISTEN)):
        reasons.append("listen_time_out_of_range")
    if offset is None and zones.is_skipped(local, zone):
        reasons.append("nonexistent_local_time")
    elif instant > modified + DAY:
        reasons.append("in_future")
    if reasons or user_id is None:
        return reasons
    return Listen(user_id, values["track_id"], instant)


def check_song(values: Mapping[str, str]) -> Song | list[str]:
    reasons = text_reasons("songs", values)
    if values["artists"] and not artists_of(values["artists"]):
        reasons.append("missing_artists")
    song_id = whole_number(values.get("id", ""))
    if values.get("id") and song_id is None:
        reasons.append("invalid_id")
    popularity = whole_number(values.get("popularity") or "0")
    reasons += _number_reasons("popularity", popularity, 100)
    duration = None
    if values["duration_ms"]:
        duration = whole_number(values["duration_ms"])
        reasons += _number_reasons("duration_ms", duration, LONGEST_TRACK_MS)
    if reasons or popularity is None or duration is None:
        return reasons
    return Song(
        id=song_id,
        track_id=values["track_id"],
        artists=_composed(values["artists"]),
        track_name=_composed(values["track_name"]),
        popularity=popularity,
        duration_ms=duration,
        track_genre=_composed(values["track_genre"]),
        album_name=_composed(values.get("album_name", "")),
    )


def check_user(values: Mapping[str, str]) -> User | list[str]:
    reasons = text_reasons("users", values)
    user_id = whole_number(values["user_id"])
    if values["user_id"] and user_id is None:
        reasons.append("invalid_user_id")
    if reasons or user_id is None:
        return reasons
    return User(user_id, values.get("created_at", ""), _composed(values.get("user_country", "")))


def artists_of(text: str) -> list[str]:
    """Each artist once, in the order written."""
    names = (name.strip(ASCII_SPACE) for name in text.split(";"))
    return list(dict.fromkeys(name for name in names if name))


def whole_number(text: str) -> int | None:
    """A bigint, or nothing."""
    if not WHOLE_NUMBER.fullmatch(text):
        return None
    number = int(text)
    return number if -(2**63) <= number < 2**63 else None


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _number_reasons(column: str, number: int | None, highest: int) -> list[str]:
    if number is None:
        return [f"invalid_{column}"]
    return [] if 0 <= number <= highest else [f"{column}_out_of_range"]


def _listen_time(text: str) -> tuple[datetime, int | None] | None:
    """The clock that is written, and its offset in minutes, if there is one."""
    found = LISTEN_TIME.fullmatch(text)
    if not found:
        return None
    clock, utc, sign, hours, minutes = found.groups()
    offset = None
    if utc or sign:
        offset = 0 if utc else int(f"{sign}1") * (60 * int(hours) + int(minutes))
        if abs(offset) > LARGEST_OFFSET or (sign and int(minutes) > 59):
            return None
    moment, _, fraction = clock.replace("T", " ").partition(".")
    try:
        local = datetime.strptime(moment, "%Y-%m-%d %H:%M:%S")
    except ValueError:
        return None
    return local + timedelta(microseconds=int(fraction.ljust(6, "0") or 0)), offset
