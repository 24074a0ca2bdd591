"""Runs of their own in tests/bad_input_cases.toml: each brings about its case and returns the exit code."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from tests.integration.application import Application, NewFile, differences
from tests.integration.bad_files import HEADERS, MODIFIED, all_bad, good_rows, rows
from tests.oracle import Oracle

REPOSITORY = Path(__file__).parents[2]
LATER = MODIFIED + timedelta(hours=1)


@dataclass(frozen=True)
class Place:
    """An input folder and a lake, both empty until a case fills them; `start_from_first_run` gives both a past."""

    application: Application
    good_files: list[NewFile]
    start_from_first_run: Callable[[], None]

    def put(self, *files: NewFile) -> None:
        for file in files:
            file.write(self.application.input)

    def put_good(self, *datasets: str) -> None:
        self.put(*(file for file in self.good_files if file.name.startswith(datasets)))

    def good(self, dataset: str) -> NewFile:
        (found,) = (file for file in self.good_files if file.name.startswith(dataset))
        return found

    def listens(self) -> int:
        """How many listens the hourly table counts."""
        return sum(int(str(count)) for (count,) in self.application.rows("kpis/hourly", ("listen_count",)))


def no_songs(place: Place) -> int:
    place.put_good("streams", "users")
    return place.application.run()


def no_users(place: Place) -> int:
    """What was left for later is taken once the users are there."""
    place.put_good("streams", "songs")
    return place.application.run()


def refused_songs(place: Place) -> int:
    place.put_good("streams", "users")
    place.put(NewFile("songs/good.csv", all_bad(HEADERS["songs"], ["?"] * 9), MODIFIED))
    return place.application.run()


def later_run(place: Place) -> int:
    """With a new file, and another content under a known name, as a setting allows it."""
    place.start_from_first_run()
    place.put(*new_streams("streams/good.csv", "streams/later.csv"))
    expected = Oracle().run(place.application.input).tables
    for dataset in ("songs", "users"):
        shutil.rmtree(place.application.input / dataset)
    exit_code = place.application.run("--set", "allow_name_reuse=true")
    assert place.listens() == 120
    assert differences(place.application.kpis(), expected) == []
    return exit_code


def songs_after_listens(place: Place) -> int:
    """Six of 60 listens wait; then their song comes, and nothing else."""
    place.start_from_first_run()
    before = place.listens()
    listens = [row.replace(",t0,", ",late,") for row in good_rows("streams", "late")[:18]]
    place.put(NewFile("streams/early.csv", rows(HEADERS["streams"], listens + good_rows("streams", "x")), LATER))
    assert place.application.run() == 0
    assert place.application.result()["files"][0]["waiting"] == 6
    assert place.listens() == before + 72
    song = "9,late,Late Larry,Late,1,1000,pop"
    place.put(NewFile("songs/late.csv", rows(HEADERS["songs"], [song]), LATER))
    exit_code = place.application.run()
    assert place.listens() == before + 78
    return exit_code


def many_tiny_files(place: Place) -> int:
    """All in one run, and not one Spark job a file."""
    place.start_from_first_run()
    before = place.listens()
    for number in range(2_000):
        row = f"{number},t0,2024-06-25 {number % 24:02d}:00:00"
        place.put(NewFile(f"streams/tiny {number:04d}.csv", rows(HEADERS["streams"], [row]), LATER))
    exit_code = place.application.run()
    assert place.application.result()["totals"]["files"]["accepted"] == 2_000
    assert place.listens() == before + 2_000
    return exit_code


def too_many_values(place: Place) -> int:
    """Such files took all memory, or hours, in this and each later run: they are rejected, and others are taken."""
    place.start_from_first_run()
    before = place.listens()
    tags = [f"{number},tagged {number},Ann,Song,1,1000,tag {number}" for number in range(25_000)]
    years = [f"1,t0,{LATER.date() - timedelta(days=day)} 00:00:00" for day in range(1, 7_306)]
    place.put(NewFile("songs/tags.csv", rows(HEADERS["songs"], tags), LATER))
    place.put(NewFile("streams/years.csv", rows(HEADERS["streams"], years), LATER), *new_streams("streams/beside.csv"))
    exit_code = place.application.run()
    fates = {file["name"]: (file["reason"], file["message"]) for file in place.application.result()["files"]}
    assert fates["streams/beside.csv"] == (None, None)
    assert fates["songs/tags.csv"][0] == "too_many_genres"
    assert "25,000 different genres; at most 5,000 are allowed (max_genres_per_file)" in fates["songs/tags.csv"][1]
    assert fates["streams/years.csv"][0] == "too_many_dates"
    assert "7,305 different dates; at most 1,100 are allowed (max_dates_per_file)" in fates["streams/years.csv"][1]
    assert place.listens() == before + 60
    place.put(*new_streams("streams/after.csv"))
    assert place.application.run() == 0
    assert place.listens() == before + 120
    return exit_code


def lake_of_other_files(place: Place) -> int:
    place.put_good("streams", "songs", "users")
    for folder in ("staged/streams", "kpis/daily_genre"):
        (place.application.lake / folder).mkdir(parents=True)
        (place.application.lake / folder / "notes.csv").write_text("not,ours\n", "utf-8")
    exit_code = place.application.run()
    assert (place.application.lake / "staged/streams/notes.csv").read_text("utf-8") == "not,ours\n"
    return exit_code


def no_write_permission(place: Place) -> int:
    """Root may write anywhere, so it gives that right away first."""
    place.put_good("streams", "songs", "users")
    place.application.lake.parent.mkdir(exist_ok=True)
    closed = place.application.lake.parent / "closed"
    closed.mkdir(mode=0o555)
    powerless: list[str] = []
    if os.geteuid() == 0:
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            pytest.skip("root can't give its rights away without setpriv")
        powerless = [setpriv, "--inh-caps=-all", "--bounding-set=-dac_override,-dac_read_search"]
    return _process([*powerless, *_command(place, closed / "lake")], closed)


def lake_below_a_file(place: Place) -> int:
    place.put_good("streams", "songs", "users")
    file = place.application.lake.parent / "a file"
    file.write_text("", "utf-8")
    return _process(_command(place, file / "lake"), file)


def no_input(place: Place) -> int:
    return place.application.run()


def unknown_setting(place: Place) -> int:
    place.put_good("streams", "songs", "users")
    exit_code = place.application.run("--set", "max_quarantined_shares=0.1")
    assert not place.application.lake.exists()
    return exit_code


def bad_setting(place: Place) -> int:
    place.put_good("streams", "songs", "users")
    exit_code = place.application.run("--set", "max_quarantined_share=a lot")
    assert not place.application.lake.exists()
    return exit_code


def half_an_export(place: Place) -> int:
    """An export without manifest isn't one: the next run makes it again, with no new file too."""
    place.start_from_first_run()
    (manifest,) = place.application.lake.glob("exports/*/manifest.json")
    manifest.unlink()
    exit_code = place.application.run()
    (again,) = place.application.lake.glob("exports/*/manifest.json")
    assert '"2024-06-25"' in again.read_text("utf-8")
    return exit_code


def new_streams(*names: str) -> list[NewFile]:
    """Sixty listens each that no other file holds, under any name."""
    return [NewFile(name, rows(HEADERS["streams"], good_rows("streams", f"new {name}")), LATER) for name in names]


def _command(place: Place, lake: Path) -> list[str]:
    return [sys.executable, "-m", "spark_app", "run", "--input", str(place.application.input), "--lake", str(lake)]


def _process(command: list[str], named: Path) -> int:
    """Standard error names the path and shows no stack trace."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert str(named) in done.stderr, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    assert "Exception in thread" not in done.stderr
    return done.returncode
