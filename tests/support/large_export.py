"""Exports of any size, shaped as the application's: on a day 113 genres, three top songs of each, and 24 hours."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import date, timedelta
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

from kpi_common.conf_files import load_toml
from tests.support.export_files import write_export

GENRES = 113
RANKS = 3
HOURS = 24
FIRST_DAY = date(2024, 1, 1)
DAYS_A_PART = 10  # some 5,000 items
Days = dict[str, dict[str, list[dict[str, Any]]]]


def tables() -> dict[str, dict[str, Any]]:
    """Return the layout of the application's tables as a manifest has it."""
    return {table["name"]: _layout(table) for table in load_toml("dynamodb/kpi_tables.toml")["tables"].values()}


def table_keys(prefix: str = "") -> dict[str, list[str]]:
    """Return the names of the tables with their key attributes, as the stub wants them."""
    return {
        prefix + name: [layout["partition_key"]["name"], layout["sort_key"]["name"]]
        for name, layout in tables().items()
    }


def kpi_items(count: int) -> Days:
    """Return so many items by date and table, the same each time."""
    days: Days = {}
    for table, item in islice(_items(), count):
        days.setdefault(item["date"], {}).setdefault(table, []).append(item)
    return days


def change_every(step: int, days: Days) -> int:
    """Change a figure of every `step`-th item and return of how many."""
    flat = [item for of_day in days.values() for items in of_day.values() for item in items]
    for item in flat[::step]:
        name = "play_count" if "play_count" in item else "listen_count"
        item[name] += 1
    return len(flat[::step])


def write_large_export(lake: Path, export_seq: int, days: Days) -> str:
    """Write an export of the application's tables and return its run id."""
    return write_export(lake, export_seq, days, days_a_part=DAYS_A_PART, tables=tables())


def _layout(table: dict[str, Any]) -> dict[str, Any]:
    layout = {name: {"name": table[name], "type": "S"} for name in ("partition_key", "sort_key")}
    indexes = [
        {
            "name": index["name"],
            "partition_key": {"name": index["partition_key"], "type": "S"},
            "sort_key": {"name": index["sort_key"], "type": "S"},
        }
        for index in table.get("indexes", [])
    ]
    return {**layout, "indexes": indexes}


def _items() -> Iterator[tuple[str, dict[str, Any]]]:
    draw = random.Random(7)
    for number in range(10**6):
        day = str(FIRST_DAY + timedelta(days=number))
        for genre in range(GENRES):
            yield "DailyGenreKPIs", _daily(draw, day, genre)
        for genre in range(GENRES):
            for rank in range(1, RANKS + 1):
                yield "TopSongsPerGenre", _song(draw, day, genre, rank)
        for hour in range(HOURS):
            yield "HourlyKPIs", _hour(draw, day, hour)


def _daily(draw: random.Random, day: str, genre: int) -> dict[str, Any]:
    songs = [f"Señorita no. {draw.randrange(90_000)}" for _ in range(RANKS)]
    return {
        "date": day,
        "genre": f"genre-{genre:03d}",
        "listen_count": draw.randrange(1, 100_000),
        "unique_listeners": draw.randrange(1, 50_000),
        "total_listening_time": draw.randrange(10**5, 10**10),
        "avg_listening_time_per_user": Decimal(draw.randrange(10**7)) / 1000,
        "avg_track_duration": Decimal(draw.randrange(10**8)) / 1000,
        "popularity_index": Decimal(draw.randrange(10**6)) / 100,
        "most_popular_track": songs[0],
        "top_3_songs": ", ".join(songs),
        "top_3_song_names": songs,
        "top_3_track_ids": [f"{draw.getrandbits(88):022x}" for _ in range(RANKS)],
        "top_5_genres": "pop, hip-hop, rock, latin, k-pop",
    }


def _song(draw: random.Random, day: str, genre: int, rank: int) -> dict[str, Any]:
    return {
        "date": day,
        "genre_rank": f"genre-{genre:03d}#{rank}",
        "genre": f"genre-{genre:03d}",
        "rank": rank,
        "track_id": f"{draw.getrandbits(88):022x}",
        "track_name": f"Señorita no. {draw.randrange(90_000)}",
        "artists": f"Artist {draw.randrange(20_000)};Artist {draw.randrange(20_000)}",
        "play_count": draw.randrange(1, 5_000),
    }


def _hour(draw: random.Random, day: str, hour: int) -> dict[str, Any]:
    return {
        "date": day,
        "hour": f"{day}T{hour:02d}:00:00Z",
        "listen_count": draw.randrange(1, 100_000),
        "unique_listeners": draw.randrange(1, 50_000),
        "unique_tracks": draw.randrange(1, 50_000),
        "track_diversity_index": Decimal(draw.randrange(10**6)) / 10**6,
        "top_artists": [f"Artist {draw.randrange(20_000)}" for _ in range(5)],
    }
