"""The KPI tables, in DuckDB: sums are HUGEINT, a ratio is one integer division that rounds half up."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import duckdb

from tests.oracle import zones
from tests.oracle.rules import Listen, Song, artists_of

Rows = list[tuple[object, ...]]

COLUMNS: dict[str, tuple[str, ...]] = {
    "kpis/daily_genre": (
        "listen_date",
        "track_genre",
        "listen_count",
        "unique_listeners",
        "total_listening_time_ms",
        "avg_listening_time_per_user_s",
        "avg_track_duration_ms",
        "popularity_index",
        "most_popular_track_id",
        "most_popular_track_name",
    ),
    "kpis/top_songs": (
        "listen_date",
        "track_genre",
        "rank",
        "track_id",
        "track_name",
        "artists",
        "play_count",
    ),
    "kpis/top_genres": ("listen_date", "rank", "track_genre", "listen_count"),
    "kpis/hourly": (
        "listen_date",
        "listen_hour",
        "listen_count",
        "unique_listeners",
        "unique_tracks",
        "track_diversity_index",
    ),
    "kpis/hourly_top_artists": ("listen_date", "listen_hour", "rank", "artist", "play_count"),
    "kpis/hourly_top_albums": ("listen_date", "listen_hour", "rank", "album_name", "play_count"),
    "kpis/daily_country": (
        "listen_date",
        "country",
        "listen_count",
        "unique_listeners",
        "total_listening_time_ms",
    ),
}
# Digits after the point.
SCALES = {
    "avg_listening_time_per_user_s": 3,
    "avg_track_duration_ms": 3,
    "popularity_index": 2,
    "track_diversity_index": 6,
}

# Whole numbers only, none negative: floor((2 a 10^k + b) / 2b) is a / b rounded half up to k digits, times 10^k.
HALF_UP = "CREATE MACRO half_up(a, b, scale) AS (2::HUGEINT * a * scale + b) // (2::HUGEINT * b)"

PLAYS = """
CREATE TABLE plays AS
SELECT l.listen_date, l.user_id, l.track_id, s.track_genre, s.track_name, s.artists, s.popularity, s.duration_ms
FROM listens l JOIN songs s USING (track_id)
"""

TOP_SONGS = """
CREATE TABLE ranked_songs AS
SELECT listen_date, track_genre, track_id, any_value(track_name) AS track_name, any_value(artists) AS artists,
       count(*) AS play_count,
       row_number() OVER (
           PARTITION BY listen_date, track_genre ORDER BY count(*) DESC, any_value(popularity) DESC, track_id
       ) AS rank
FROM plays GROUP BY listen_date, track_genre, track_id
"""

QUERIES = {
    "kpis/daily_genre": """
        WITH tracks AS (
            SELECT listen_date, track_genre, sum(duration_ms)::HUGEINT AS durations, count(*) AS tracks
            FROM (SELECT DISTINCT listen_date, track_genre, track_id, duration_ms FROM plays)
            GROUP BY ALL
        ), totals AS (
            SELECT listen_date, track_genre, count(*) AS listen_count, count(DISTINCT user_id) AS unique_listeners,
                   sum(duration_ms)::HUGEINT AS total, sum(popularity)::HUGEINT AS popularity
            FROM plays GROUP BY ALL
        )
        SELECT listen_date, track_genre, listen_count, unique_listeners, total::BIGINT,
               half_up(total, unique_listeners, 1), half_up(durations, tracks, 1000), popularity,
               first.track_id, first.track_name
        FROM totals JOIN tracks USING (listen_date, track_genre)
        JOIN ranked_songs first USING (listen_date, track_genre)
        WHERE first.rank = 1
        ORDER BY listen_date, track_genre
    """,
    "kpis/top_songs": """
        SELECT listen_date, track_genre, rank, track_id, track_name, artists, play_count
        FROM ranked_songs WHERE rank <= 3 ORDER BY listen_date, track_genre, rank
    """,
    "kpis/top_genres": """
        SELECT listen_date, row_number() OVER (PARTITION BY listen_date ORDER BY count(*) DESC, track_genre) AS rank,
               track_genre, count(*) AS listen_count
        FROM plays GROUP BY listen_date, track_genre
        QUALIFY rank <= 5 ORDER BY listen_date, rank
    """,
    "kpis/hourly": """
        SELECT listen_date, listen_hour, count(*) AS listen_count, count(DISTINCT user_id),
               count(DISTINCT track_id), half_up(count(DISTINCT track_id), count(*), 1000000)
        FROM listens WHERE track_id IN (SELECT track_id FROM songs)
        GROUP BY listen_date, listen_hour ORDER BY listen_hour
    """,
    "kpis/hourly_top_artists": """
        SELECT listen_date, listen_hour,
               row_number() OVER (PARTITION BY listen_hour ORDER BY count(*) DESC, artist) AS rank,
               artist, count(*) AS play_count
        FROM listens JOIN track_artists USING (track_id)
        GROUP BY listen_date, listen_hour, artist
        QUALIFY rank <= 5 ORDER BY listen_hour, rank
    """,
    "kpis/hourly_top_albums": """
        SELECT listen_date, listen_hour,
               row_number() OVER (PARTITION BY listen_hour ORDER BY count(*) DESC, album_name) AS rank,
               album_name, count(*) AS play_count
        FROM listens JOIN tracks USING (track_id) WHERE album_name <> ''
        GROUP BY listen_date, listen_hour, album_name
        QUALIFY rank <= 5 ORDER BY listen_hour, rank
    """,
    "kpis/daily_country": """
        SELECT listen_date, coalesce(u.country, 'unknown') AS country, count(*), count(DISTINCT user_id),
               sum(duration_ms)::BIGINT
        FROM listens JOIN tracks USING (track_id) LEFT JOIN users u USING (user_id)
        GROUP BY ALL ORDER BY listen_date, country
    """,
}


def compute(
    listens: Iterable[Listen], songs: Sequence[Song], countries: Mapping[int, str], zone: ZoneInfo
) -> dict[str, Rows]:
    """All tables, rows in the order of their keys. `songs`: one row of each (track_id, track_genre)."""
    with duckdb.connect() as database, tempfile.TemporaryDirectory() as folder:
        _load(database, Path(folder), "listens", LISTENS, (_listen_row(listen, zone) for listen in set(listens)))
        _load(database, Path(folder), "songs", SONGS, (_song_row(song) for song in songs))
        tracks = _tracks(songs)
        _load(database, Path(folder), "tracks", TRACKS, ((s.track_id, s.album_name, s.duration_ms) for s in tracks))
        artists = ((song.track_id, artist) for song in tracks for artist in artists_of(song.artists))
        _load(database, Path(folder), "track_artists", TRACK_ARTISTS, artists)
        _load(database, Path(folder), "users", USERS, countries.items())
        for statement in (HALF_UP, PLAYS, TOP_SONGS):
            database.execute(statement)
        return {name: _typed(name, database.execute(query).fetchall()) for name, query in QUERIES.items()}


LISTENS = {
    "user_id": "BIGINT",
    "track_id": "VARCHAR",
    "instant": "BIGINT",
    "listen_date": "VARCHAR",
    "listen_hour": "BIGINT",
}
SONGS = {
    "track_id": "VARCHAR",
    "artists": "VARCHAR",
    "track_name": "VARCHAR",
    "popularity": "BIGINT",
    "duration_ms": "BIGINT",
    "track_genre": "VARCHAR",
}
TRACKS = {"track_id": "VARCHAR", "album_name": "VARCHAR", "duration_ms": "BIGINT"}
USERS = {"user_id": "BIGINT", "country": "VARCHAR"}
TRACK_ARTISTS = {"track_id": "VARCHAR", "artist": "VARCHAR"}


def _listen_row(listen: Listen, zone: ZoneInfo) -> tuple[object, ...]:
    day = zones.local_date(listen.instant, zone).isoformat()
    return listen.user_id, listen.track_id, listen.instant, day, zones.hour_start(listen.instant, zone)


def _song_row(song: Song) -> tuple[object, ...]:
    return song.track_id, song.artists, song.track_name, song.popularity, song.duration_ms, song.track_genre


def _tracks(songs: Sequence[Song]) -> Iterable[Song]:
    """A track's artists, album and duration are those of its most popular row, then of the first genre."""
    best: dict[str, Song] = {}
    for song in sorted(songs, key=lambda song: (-song.popularity, song.track_genre.encode())):
        best.setdefault(song.track_id, song)
    return best.values()


def _load(
    database: duckdb.DuckDBPyConnection,
    folder: Path,
    table: str,
    types: dict[str, str],
    rows: Iterable[tuple[object, ...]],
) -> None:
    """Through a file of JSON lines: exact for text and bigint, and fast."""
    path = folder / f"{table}.json"
    with path.open("w", encoding="utf-8") as lines:
        for row in rows:
            lines.write(json.dumps(dict(zip(types, row, strict=True))) + "\n")
    columns = ", ".join(f"{name} {kind}" for name, kind in types.items())
    database.execute(f"CREATE TABLE {table} ({columns})")
    if path.stat().st_size:
        database.execute(f"COPY {table} FROM '{path}' (FORMAT json)")


def _typed(table: str, rows: Rows) -> Rows:
    return [tuple(_cell(column, value) for column, value in zip(COLUMNS[table], row, strict=True)) for row in rows]


def _cell(column: str, value: object) -> object:
    if column == "listen_date":
        return date.fromisoformat(str(value))
    if column == "listen_hour":
        return datetime.fromtimestamp(int(str(value)) // zones.SECOND, UTC)
    if column in SCALES:
        return Decimal(int(str(value))).scaleb(-SCALES[column])
    return value
