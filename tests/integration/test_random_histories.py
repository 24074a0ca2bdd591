"""However files come, change, go and come again, and however that is cut into runs: the end is that of one run.

`KPI_HISTORIES=50` tries so many others, from `KPI_HISTORY_SEED=…` on.
"""

from __future__ import annotations

import gzip
import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from spark_app.cli import main
from spark_app.ingest.file_ledger import LedgerFolder
from spark_app.lake.tables import Lake
from spark_app.run.files import Status
from spark_app.run.state import StateFile
from tests.integration.application import Application, NewFile, differences
from tests.integration.bad_files import HEADERS, MODIFIED, rows
from tests.oracle import Oracle
from tests.oracle.fates import Limits

HISTORIES = int(os.environ.get("KPI_HISTORIES", "0"))
FIRST_SEED = int(os.environ.get("KPI_HISTORY_SEED", "1"))
# Between them, the histories of these two have each kind of event.
SEEDS = range(FIRST_SEED, FIRST_SEED + HISTORIES) if HISTORIES else (6, 48)
# A file's fate must not depend on what else is there at the time; that is tested in test_histories.py.
SETTINGS = {"max_waiting_share": "1", "max_quarantined_share": "0.5"}
BAD = ("?,A,2024-06-24 10:00:00", "1,,2024-06-24 10:00:00", "1,A,2024-02-30 10:00:00", '1,"A,2024-06-24 10:00:00')
TRACKS = ("A", "B", "C", "late", "never")
GENRES = ("pop", "rock", "jazz")


@dataclass
class Place:
    """An application, and what a database holds after all deliveries so far."""

    application: Application
    delivered: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def command(self, *arguments: str) -> None:
        lake = ("--lake", str(self.application.lake))
        settings = [part for name, value in SETTINGS.items() for part in ("--set", f"{name}={value}")]
        assert main([*arguments, *lake, *settings], spark=self.application.spark) in {0, 3}

    def run(self) -> None:
        self.command("run", "--input", str(self.application.input))

    def run_some(self, files: list[NewFile]) -> None:
        """A run of these files alone."""
        entries = [
            {
                "dataset": file.name.partition("/")[0],
                "name": file.name,
                "path": str(self.application.input / file.name),
                "etag": None,
                "size": len(file.content),
                "modified_at": file.modified.isoformat(),
            }
            for file in files
        ]
        manifest = self.application.lake.parent / "manifest.json"
        manifest.write_text(json.dumps({"schema_version": 1, "run_id": "x", "files": entries}), "utf-8")
        self.command("run", "--manifest", str(manifest))

    def deliver(self) -> None:
        """Do what the writer does with the newest export."""
        exports = self.application.lake / "exports"
        manifests = [json.loads(path.read_text("utf-8")) for path in exports.glob("*/manifest.json")]
        if not manifests:
            return
        newest = max(manifests, key=lambda manifest: manifest["export_seq"])
        folder = exports / newest["run_id"]
        for table in newest["tables"]:
            for date in newest["dates"]:
                self.delivered[table["name"], date] = []
        for table, item in _items(folder, newest):
            self.delivered[table, item["Item"]["date"]["S"]].append(json.dumps(item, sort_keys=True))
        (folder / "delivered.json").write_text("{}", "utf-8")

    def end(self) -> dict[str, list[Any]]:
        """All that two lakes of the same data have in common, in order; without run ids, numbers and times."""
        lake = Lake(str(self.application.lake))
        ledger = LedgerFolder(StateFile(lake, "")).read_all()
        accepted = ledger.with_status(Status.ACCEPTED)
        names = {version.file_id: version.name for version in accepted}
        streams = self.application.rows("staged/streams", ("file_id", "user_id", "track_id", "listen_time", "copies"))
        bad: list[tuple[Any, ...]] = []  # before the first bad row there is no such table
        if (self.application.lake / "quarantine" / "records").exists():
            bad = self.application.rows("quarantine/records", ("file_name", "line_number", "raw", "reasons"))
        kept = {name for version in accepted if (name := version.name)}
        return {
            "files": sorted(
                (v.name, v.rows, v.valid, v.duplicates, v.quarantined, dict(v.quarantined_by_reason), v.etag)
                for v in accepted
            ),
            "staged": sorted((names[file_id], *row) for file_id, *row in streams),
            "quarantine": sorted(map(repr, bad)),
            "quarantine of files that are not there": sorted({name for name, *_ in bad} - kept),
            "delivered": sorted((key, sorted(items)) for key, items in self.delivered.items() if items),
        }


def _items(folder: Path, manifest: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for part in manifest["parts"]:
        for file in part["files"]:
            with gzip.open(folder / file["path"], "rt", encoding="utf-8") as lines:
                yield from ((file["table"], json.loads(line)) for line in lines)


class History:
    """Random events, and a place that lives through them; `final` are the files that count in the end."""

    def __init__(self, place: Place, seed: int) -> None:
        self.place = place
        self.final: dict[str, NewFile] = {}
        self._dice = random.Random(seed)
        self._there: dict[str, NewFile] = {}
        self._hours = 0
        self.told: list[str] = []

    def live(self, events: int) -> None:
        self._put("users/a.csv", ["1,Ann,2024-01-01", "2,Bob,2024-01-02", "2,Bo,2024-01-01"])
        self._put("songs/a.csv", self._songs(("A", "B", "C")))
        self._new_stream()
        kinds = (self._new_stream,) * 3 + (self._correct,) * 3 + (self._bad,) * 2 + (self._withdraw,) * 2
        kinds += (self._twin, self._songs_change, self._songs_come, self._users_come)
        for _ in range(events):
            self._dice.choice(kinds)()
            if self._dice.random() < 0.35:
                self._run()
            if self._dice.random() < 0.4:
                self.place.deliver()
        self._run_all()
        self.place.deliver()

    # --- events ---

    def _new_stream(self) -> None:
        name = f"streams/{len(self._there)}{self._dice.choice(('', ' late', '=x'))}.csv"
        self._put(name, self._listens(name))

    def _correct(self) -> None:
        name = self._some_stream()
        self._put(name, self._listens(name))

    def _twin(self) -> None:
        good = [file.content for name, file in self.final.items() if name.startswith("streams/")]
        if good:
            self._put_bytes(f"streams/twin {len(self._there)}.csv", self._dice.choice(good))

    def _bad(self) -> None:
        """A file that is refused; in the place of a good one, that stays. So the good one must have been seen."""
        if self._dice.random() < 0.5:
            name = f"streams/bad {len(self._there)}.csv"
        else:
            name = self._some_stream()
            self._run_all()
        counted = self.final.get(name)
        self._put_bytes(name, rows(HEADERS["streams"], [f"?,{self._hours},never"] * 3))
        del self.final[name]
        if counted is not None:
            self.final[name] = counted

    def _withdraw(self) -> None:
        name = self._some_stream()
        self._run_all()
        if name not in self.final:
            return
        self.told.append(f"withdraw {name}")
        self.place.command("files", "withdraw", name)
        withdrawn = self.final.pop(name)
        if self._there[name] is withdrawn and self._dice.random() < 0.4:
            self.told.append(f"retry {name}")
            self.place.command("files", "retry", name)
            self.final[name] = withdrawn

    def _songs_change(self) -> None:
        self._put("songs/a.csv", self._songs(("A", "B", "C")))

    def _songs_come(self) -> None:
        self._put(f"songs/{self._dice.choice('bc')}.csv", self._songs(("late", self._dice.choice("ABC"))))

    def _users_come(self) -> None:
        self._put("users/b.csv", [f"{self._dice.randint(1, 9)},Cy,2024-01-03"])

    # --- runs ---

    def _run(self) -> None:
        if self._dice.random() < 0.5:
            self._run_all()
            return
        some = [file for file in self._there.values() if self._dice.random() < 0.5]
        self._dice.shuffle(some)
        self.told.append(f"run of {[file.name for file in some]}")
        if some:
            self.place.run_some(some)

    def _run_all(self) -> None:
        self.told.append("run")
        self.place.run()

    # --- contents ---

    def _some_stream(self) -> str:
        return self._dice.choice([name for name in self._there if name.startswith("streams/")])

    def _listens(self, name: str) -> list[str]:
        """One listen that all versions of a file share (else its name would count as reused), and others."""
        dice = self._dice
        listens = [f"{500 + len(name)},A,2024-06-24 00:00:00"]
        for _ in range(dice.randint(3, 25)):
            moment = f"2024-06-{dice.randint(24, 27)} {dice.randint(0, 23):02d}:{dice.choice((0, 30)):02d}:00"
            listens.append(f"{dice.randint(1, 4)},{dice.choice(TRACKS)},{moment}")
        listens += dice.sample(listens, dice.randint(0, 2))
        listens += dice.sample(BAD, dice.randint(0, 2))
        dice.shuffle(listens)
        return listens

    def _songs(self, tracks: tuple[str, ...]) -> list[str]:
        dice = self._dice
        return [
            f"{dice.randint(1, 10**9)},{track},Ann;{dice.choice(('Bob', 'Cy'))},Song {track} {dice.randint(1, 3)},"
            f"{dice.choice((10, 50))},{dice.randint(1000, 3000)},{genre}"
            for track in tracks
            for genre in dice.sample(GENRES, dice.randint(1, 2))
        ]

    def _put(self, name: str, records: list[str]) -> None:
        self._put_bytes(name, rows(HEADERS[name.partition("/")[0]], records))

    def _put_bytes(self, name: str, content: bytes) -> None:
        """Each file is newer than the ones before."""
        self._hours += 1
        file = NewFile(name, content, MODIFIED + timedelta(hours=self._hours))
        file.write(self.place.application.input)
        self._there[name] = self.final[name] = file
        self.told.append(f"put {name}")


def check(spark: SparkSession, directory: Path, seed: int, events: int) -> str:
    """Compare the end of a history with that of one run, and return what happened in it."""
    history = History(Place(Application(spark, directory / "input", directory / "lake", SETTINGS)), seed)
    history.live(events)
    once = Place(Application(spark, directory / "final" / "input", directory / "final" / "lake", SETTINGS))
    for file in history.final.values():
        file.write(once.application.input)
    once.run()
    once.deliver()
    told = f"seed {seed}: " + "; ".join(history.told)
    lived, at_once = history.place.end(), once.end()
    for what, found in lived.items():
        assert found == at_once[what], told
    assert lived["quarantine of files that are not there"] == [], told
    assert differences(history.place.application.kpis(), once.application.kpis()) == [], told
    oracle = Oracle(limits=Limits(Fraction(1, 2), Fraction(1)))
    assert differences(once.application.kpis(), oracle.run(once.application.input).tables) == [], told
    return told


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", SEEDS)
def test_any_history_in_any_runs_ends_like_one_run(
    spark: SparkSession, tmp_path: Path, seed: int, figure: Callable[[str], None]
) -> None:
    figure(f"history: {check(spark, tmp_path, seed, events=7)}")
