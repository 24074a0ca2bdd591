"""What a new day of 55,000 listens costs on 10 million songs and 5 million users, beside a hundredth of these."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import duckdb

from bench.data import MACROS, References, make_data, songs_query, users_query
from bench.measure import BenchError, Measurement, measure
from kpi_common.contracts import Dataset
from spark_app.lake.tables import Lake
from spark_app.run.state import Progress, StateFile
from tools.spark_submit import submit_command, submit_environment
from tools.toolchain import BUILD, say

FOLDER = BUILD / "bench" / "catalogue"
FEW = References(users=50_000, song_rows=100_000, tracks=80_000)
MANY = References(users=5_000_000, song_rows=10_000_000, tracks=8_000_000)
OF_A_DAY = 55_000
MOST = 1.3  # × the CPU that the day takes on the small catalogue
_FILE_ID = 1000
# As the application stages them: of a file that is newer than that of the first run.
_STAGED = f"{_FILE_ID} AS file_id, TIMESTAMPTZ '2026-01-01 12:00:00+00' AS file_modified_at, 1 AS copies"
_STAGED_SONGS = f"""
SELECT DISTINCT ON (track_id, track_genre) {_STAGED}, 'songs/many.csv' AS file_name, track_id, track_genre, id,
    track_name, artists, album_name, popularity::BIGINT AS popularity, duration_ms::BIGINT AS duration_ms
FROM ({songs_query(MANY)})
"""  # noqa: S608 (numbers of ours)
_STAGED_USERS = f"""
SELECT {_STAGED}, user_id, user_country, '25-34' AS age_band FROM ({users_query(MANY)})
"""  # noqa: S608


def catalogue(options: argparse.Namespace) -> dict[str, Any]:
    """Run the new day on copies of both lakes, in alternation.

    Raises:
        BenchError: on the large catalogue, the day takes more than MOST times the CPU.
    """
    lakes = {"few": FOLDER / "lake-few", "many": FOLDER / "lake-many"}
    make_lakes(lakes["few"], lakes["many"])
    runs: dict[str, list[Measurement]] = {name: [] for name in lakes}
    for number in range(options.rounds):
        for name, lake in lakes.items():
            copy = FOLDER / "lake"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(lake, copy)
            runs[name].append(run(FOLDER / f"day-{name}", copy))
            of = runs[name][-1]
            say(f"round {number + 1} of {options.rounds}: {name}: {of.cpu_seconds:.0f} CPU s, {of.seconds:.1f} s")
    cpu = {name: statistics.median(of.cpu_seconds for of in of_name) for name, of_name in runs.items()}
    for name, references in {"few": FEW, "many": MANY}.items():
        seconds, memory = (statistics.median(getattr(of, key) for of in runs[name]) for key in ("seconds", "memory_mb"))
        print(
            f"{OF_A_DAY:,} listens, {references.song_rows:,} songs, {references.users:,} users: "
            f"{cpu[name]:.0f} CPU s, {seconds:.1f} s, {memory:,.0f} MB"
        )
    ratio = cpu["many"] / cpu["few"]
    print(f"{ratio:.2f} × the CPU; allowed is {MOST} ×")
    if ratio > MOST:
        raise BenchError(f"on the large catalogue, a new day takes {ratio:.2f} × the CPU; allowed is {MOST}")
    return {name: [asdict(of) for of in of_name] for name, of_name in runs.items()} | {"ratio": ratio}


def make_lakes(few: Path, many: Path) -> None:
    """Make the lakes, with one day in each, and the listens of the next day; once.

    The application stages few songs and users; many are written to a copy of its lake, as it would stage them.
    """
    done = FOLDER / ".complete"
    if done.exists():
        return
    shutil.rmtree(FOLDER, ignore_errors=True)
    say(f"making {MANY.song_rows:,} songs and {MANY.users:,} users (once) …")
    run(make_data(FOLDER / "first", OF_A_DAY, 1, references=FEW), few)
    for manifest in few.glob("exports/*/manifest.json"):  # delivered, or the day would be exported again
        manifest.with_name("delivered.json").write_text("{}", "utf-8")
    shutil.copytree(few, many)
    with duckdb.connect() as engine:
        engine.execute(MACROS)
        for dataset, query in {Dataset.SONGS: _STAGED_SONGS, Dataset.USERS: _STAGED_USERS}.items():
            add_data_file(engine, many, dataset, query)
    state = StateFile(Lake(str(many)), "bench")
    versions = [Lake(str(many)).staged(dataset).version() for dataset in Dataset]
    state.save("bench", progress=Progress(*versions), next_file_id=_FILE_ID + 1)
    for name, references in {"few": FEW, "many": MANY}.items():
        make_data(FOLDER / f"day-{name}", OF_A_DAY, 1, date(2026, 1, 2), references=references)
        for dataset in (Dataset.SONGS, Dataset.USERS):
            shutil.rmtree(FOLDER / f"day-{name}" / str(dataset))
    done.touch()


def add_data_file(engine: duckdb.DuckDBPyConnection, lake: Path, dataset: Dataset, query: str) -> None:
    """Add a data file to a staged table, of PLAIN values as Spark writes them here, and a commit that names it."""
    table = Lake(str(lake)).staged(dataset)
    path = Path(table.uri) / "part-many.snappy.parquet"
    (rows,) = engine.execute(f"COPY ({query}) TO '{path}' (COMPRESSION snappy, DICTIONARY_SIZE_LIMIT 1)").fetchall()
    of_file_id = {"minValues": {"file_id": _FILE_ID}, "maxValues": {"file_id": _FILE_ID}, "nullCount": {"file_id": 0}}
    added = {
        "path": path.name,
        "partitionValues": {},
        "size": path.stat().st_size,
        "modificationTime": int(path.stat().st_mtime * 1000),
        "dataChange": True,
        "stats": json.dumps({"numRecords": rows[0], **of_file_id}),
    }
    log = Path(table.uri) / "_delta_log" / f"{table.version() + 1:020}.json"
    log.write_text(json.dumps({"add": added}) + "\n", "utf-8")


def run(source: Path, lake: Path) -> Measurement:
    """Run the application on a lake."""
    command = submit_command(["run", "--input", str(source), "--lake", str(lake), "--log-format", "json"])
    return measure(command, submit_environment(os.environ), FOLDER / "run.log")
