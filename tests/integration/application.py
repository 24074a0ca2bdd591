"""The application as a test calls it, and what it leaves in its lake in plain Python values."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from spark_app.cli import main
from tests.faults.content import LakeSnapshot
from tests.oracle import FileFate
from tests.oracle.kpis import COLUMNS, Rows

DELTA_TABLES = (
    "staged/streams",
    "staged/songs",
    "staged/users",
    "quarantine/records",
    *COLUMNS,
)
COUNTS = ("rows", "valid", "duplicates", "quarantined", "waiting")


@dataclass(frozen=True)
class NewFile:
    """What a test puts into the input: `name` is `streams/a.csv`."""

    name: str
    content: bytes
    modified: datetime

    def write(self, directory: Path) -> None:
        path = directory / self.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.content)
        os.utime(path, (self.modified.timestamp(), self.modified.timestamp()))


@dataclass(frozen=True)
class Application:
    """One input folder, one lake, one Spark session for all commands."""

    spark: SparkSession
    input: Path
    lake: Path
    settings: Mapping[str, str]

    def run(self, *arguments: str) -> int:
        """The exit code of `run`; `result()` has the rest."""
        given = [part for name, value in self.settings.items() for part in ("--set", f"{name}={value}")]
        return main(["run", "--input", str(self.input), "--lake", str(self.lake), *given, *arguments], spark=self.spark)

    def results(self) -> list[dict[str, Any]]:
        """Every run's result, the oldest first."""
        found = [json.loads(path.read_text("utf-8")) for path in self.lake.glob("runs/*/result.json")]
        return sorted(found, key=lambda result: str(result["started_at"]))

    def result(self) -> dict[str, Any]:
        return self.results()[-1]

    def kpis(self) -> dict[str, Rows]:
        return {table: self.rows(table, columns) for table, columns in COLUMNS.items()}

    def rows(self, table: str, columns: tuple[str, ...]) -> list[tuple[Any, ...]]:
        """In the order of the columns; hours are aware, other instants microseconds.

        Read without Spark, as five tables cost 6 CPU s with it.
        """
        found = LakeSnapshot(self.lake).rows(table, ", ".join(columns))
        return [tuple(_cell(column, value) for column, value in zip(columns, row, strict=True)) for row in found]

    def versions(self) -> dict[str, int]:
        """The newest version of each Delta table."""
        return {table: _version(self.lake / table) for table in DELTA_TABLES}


def _cell(column: str, value: object) -> object:
    if column == "listen_hour":
        seconds, rest = divmod(int(str(value)), 1_000_000)
        return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest)
    return value


def _version(table: Path) -> int:
    return max((int(path.stem) for path in table.glob("_delta_log/*.json") if path.stem.isdigit()), default=-1)


def differences(found: Mapping[str, Rows], expected: Mapping[str, Rows]) -> list[str]:
    """One line for each row that only one side has, and for rows that are there twice."""
    lines = []
    for table, rows in expected.items():
        ours, theirs = sorted(map(repr, found[table])), sorted(map(repr, rows))
        lines += [f"{table}: only the application has {row}" for row in _without(ours, theirs)]
        lines += [f"{table}: only the oracle has {row}" for row in _without(theirs, ours)]
    return lines


def fate_differences(result: Mapping[str, Any], expected: Mapping[str, FileFate]) -> list[str]:
    """One line for each file and count in which a run's result departs from the oracle's fates.

    Rows of a rejected file have no fate, so only its outcome and its reason are held against each other.
    """
    found = {file["name"]: file for file in result["files"]}
    lines = [f"{name}: only the application lists it" for name in sorted(found.keys() - expected.keys())]
    for name, fate in sorted(expected.items()):
        if name not in found:
            lines.append(f"{name}: the application doesn't list it")
            continue
        file = found[name]
        pairs: list[tuple[str, object, object]] = [
            ("outcome", file["outcome"], fate.outcome),
            ("reason", file["reason"], fate.reason),
        ]
        if fate.outcome == "accepted":
            pairs += [(count, file[count], getattr(fate, count)) for count in COUNTS]
            pairs.append(("quarantined_by_reason", file["quarantined_by_reason"], fate.quarantined_by_reason()))
        lines += [f"{name}: {what} is {ours}, not {theirs}" for what, ours, theirs in pairs if ours != theirs]
    return lines


def _without(rows: Iterable[str], others: Iterable[str]) -> list[str]:
    left = list(rows)
    for row in others:
        if row in left:
            left.remove(row)
    return left
