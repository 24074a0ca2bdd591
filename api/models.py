"""What the API answers with. Fields have the names of the KPI tables' columns (see docs/reference.md).

Numbers are exact: whole numbers are JSON numbers; decimals are strings, as stored, without zeros at their end.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

from pydantic import BaseModel, Field

Exact = Annotated[str, Field(pattern=r"^-?\d+(\.\d+)?$", description="An exact decimal, as a string")]
Count = Annotated[int, Field(ge=0)]


class DailyGenre(BaseModel):
    """A genre on a day. A listen counts in each genre of its song."""

    track_genre: str
    listen_count: Count
    unique_listeners: Count
    total_listening_time_ms: Count
    avg_listening_time_per_user_s: Exact
    avg_track_duration_ms: Exact
    popularity_index: Exact
    most_popular_track_name: str
    top_3_song_names: list[str] = []
    top_3_track_ids: list[str] = []


class GenreDay(DailyGenre):
    """A day of a genre, with what is known of the day."""

    listen_date: date
    complete: bool
    run_id: str | None = None


class Hour(BaseModel):
    """An hour, by the instant at which it begins. Each listen counts once."""

    listen_hour: str
    listen_count: Count
    unique_listeners: Count
    unique_tracks: Count
    track_diversity_index: Exact
    top_artists: list[str] = []


class Song(BaseModel):
    """One of the most played songs of a genre on a day."""

    track_genre: str
    rank: Annotated[int, Field(ge=1)]
    track_id: str
    track_name: str
    artists: str
    play_count: Count


class Country(BaseModel):
    """A country on a day; `unknown` where the listener's is not known."""

    country: str
    listen_count: Count
    unique_listeners: Count
    total_listening_time_ms: Count


class _Day(BaseModel):
    """A part of a day: `complete` is false while the day is being written, `run_id` is the run that it is of.

    `next` is the token of the next page, null on the last.
    """

    date: date
    complete: bool
    run_id: str | None = None
    updated_at: str | None = None
    next: str | None = None


class DailyGenres(_Day):
    """Genres of a day."""

    items: list[DailyGenre]


class Hours(_Day):
    """Hours of a day."""

    items: list[Hour]


class Songs(_Day):
    """Top songs of a genre on a day, by rank."""

    items: list[Song]


class Countries(_Day):
    """Countries of a day."""

    items: list[Country]


class GenreDays(BaseModel):
    """Days of a genre in order; `next` is the token of the next page, null on the last."""

    genre: str
    items: list[GenreDay]
    next: str | None = None


class Health(BaseModel):
    """How fresh the figures are: the newest complete day, and up to which instant files had come when it was made."""

    status: Literal["ok", "empty"]
    newest_day: date | None = None
    run_id: str | None = None
    updated_at: str | None = None
    complete_through: str | None = None
    age_seconds: int | None = None


class Problem(BaseModel):
    """An error, as RFC 9457 has it; `type` is for programs, `detail` for people."""

    type: str
    title: str
    status: int
    detail: str
