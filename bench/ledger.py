"""What a run costs that finds 10 new files, when the lake knows a million files and when it knows none of them."""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bench.measure import BenchError, measure
from kpi_common.contracts import Dataset
from spark_app.ingest.file_ledger import Ledger, LedgerFolder
from spark_app.lake.tables import Lake
from spark_app.run.files import FileVersion, Status
from spark_app.run.state import StateFile
from tools.spark_submit import submit_command, submit_environment
from tools.toolchain import BUILD, say

FOLDER = BUILD / "bench" / "ledger"
KNOWN = 1_000_000
NEW = 10
ROWS = 100
MOST = 1.2  # × of what a run takes that knows none
_AT = datetime(2024, 6, 25, tzinfo=UTC)


def ledger(options: argparse.Namespace) -> dict[str, Any]:
    """Run on copies of both lakes, in alternation.

    Raises:
        BenchError: with all files known, a run takes more than MOST times as long.
    """
    shutil.rmtree(FOLDER, ignore_errors=True)
    first, second = FOLDER / "first", FOLDER / "second"
    write_references(first)
    write_streams(first, 1)
    write_streams(second, NEW)
    lakes = {"none known": FOLDER / "lake-none", "a million known": FOLDER / "lake-million"}
    run(first, lakes["none known"])
    shutil.copytree(lakes["none known"], lakes["a million known"])
    say(f"writing a ledger of {KNOWN:,} files …")
    know_files(lakes["a million known"], KNOWN)
    seconds: dict[str, list[float]] = defaultdict(list)
    for number in range(options.rounds):
        for name, lake in lakes.items():
            copy = FOLDER / "lake"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(lake, copy)
            seconds[name].append(run(second, copy))
            say(f"round {number + 1} of {options.rounds}: {name}: {seconds[name][-1]:.1f} s")
    none, million = (statistics.median(seconds[name]) for name in lakes)
    print(f"{NEW} new files: {none:.1f} s, with a million files known {million:.1f} s: {million / none:.2f} ×")
    if million > MOST * none:
        raise BenchError(f"with a million files known, a run takes {million / none:.2f} × as long; allowed is {MOST}")
    return {**seconds, "ratio": million / none}


def run(source: Path, lake: Path) -> float:
    """Run the application; return its seconds."""
    command = submit_command(["run", "--input", str(source), "--lake", str(lake), "--log-format", "json"])
    return measure(command, submit_environment(os.environ, short_run=True), FOLDER / "run.log").seconds


def write_references(folder: Path) -> None:
    """Write a file of songs and one of users."""
    songs = [f"{n},track-{n},Ann,Album,Song {n},50,1000,pop" for n in range(ROWS)]
    header = "id,track_id,artists,album_name,track_name,popularity,duration_ms,track_genre"
    write(folder / "songs" / "songs.csv", [header, *songs])
    users = [f"{n},User {n},30,DE,2024-01-01" for n in range(ROWS)]
    write(folder / "users" / "users.csv", ["user_id,user_name,user_age,user_country,created_at", *users])


def write_streams(folder: Path, files: int) -> None:
    """Write files of ROWS listens."""
    for number in range(files):
        times = [_AT + timedelta(minutes=n, seconds=number) for n in range(ROWS)]
        rows = [f"{n},track-{n},{time:%Y-%m-%d %H:%M:%S}" for n, time in enumerate(times)]
        write(folder / "streams" / f"{folder.name}-{number}.csv", ["user_id,track_id,listen_time", *rows])


def write(path: Path, lines: list[str]) -> None:
    """Write a text file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", "utf-8")


def know_files(lake: Path, count: int) -> None:
    """Add so many accepted files to a lake's ledger."""
    state = StateFile(Lake(str(lake)), "bench")
    folder = LedgerFolder(state)
    versions = [*folder.read_all().all, *accepted_files(count, state.value.next_file_id)]
    folder.write(Ledger(versions), [version.name for version in versions])
    state.save("bench", next_file_id=state.value.next_file_id + count)


def accepted_files(count: int, first_id: int) -> Iterator[FileVersion]:
    """Versions as hourly files leave them."""
    for number in range(count):
        at = _AT - timedelta(hours=number)
        name = f"streams/{at:%Y/%m/%d}/listens-{at:%H}-{number}.csv"
        yield FileVersion(
            file_id=first_id + number,
            version=1,
            dataset=Dataset.STREAMS,
            name=name,
            uri=f"/input/{name}",
            etag=f"{number:032x}",
            size=10_000,
            modified_at=at,
            stat=f"10000-{number}-{number}-{number}",
            status=Status.ACCEPTED,
            rows=ROWS,
            valid=ROWS,
            run_id="bench",
            updated_at=at,
        )
