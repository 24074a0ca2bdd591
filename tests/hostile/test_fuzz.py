"""Files spoilt by seed go in beside good ones: every file has one fate, every row too, and it is the oracle's.

A look into 400 files in the short run of the tests, runs over 2,000 files in `./build.sh test --all`.
`KPI_FUZZ_FILES=20000` and `KPI_FUZZ_SEED=…` look further.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from kpi_common.contracts import Dataset
from spark_app.config.settings import load_settings
from spark_app.ingest.discovery import is_ignored
from spark_app.ingest.preflight import inspect_file
from spark_app.run.files import InputFile
from tests.hostile.mutations import HostileFiles, read_seeds
from tests.integration.application import Application, NewFile, differences, fate_differences
from tests.oracle import Oracle, Outcome
from tests.oracle.records import FileRejectedError, read_table
from tests.oracle.rules import OPTIONAL, REQUIRED
from tools.sample_data import make_sample_data

SHARED_DATA = Path(__file__).parents[3] / "shared" / "data" / "raw"
FILES = int(os.environ.get("KPI_FUZZ_FILES", "2000"))
FIRST_SEED = int(os.environ.get("KPI_FUZZ_SEED", "1"))
A_BATCH = 2000
HUGE_FIELDS = 4
# Where a header and the bytes after it are both bad, either is a reason: it depends on how far was read at once.
EITHER = {f"reason is {reason}, not not_utf8" for reason in ("missing_column", "duplicate_column", "empty_file")}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sample")
    make_sample_data(directory)
    return directory


class Batch:
    """The good files of folders, hostile ones beside them, one run over all; then what is to hold is checked."""

    def __init__(self, spark: SparkSession, directory: Path, good: Sequence[Path], files: Sequence[NewFile]) -> None:
        self.application = Application(spark, directory / "input", directory / "lake", {})
        for number, folder in enumerate(good):
            for path in (*folder.glob("songs/*.csv"), *folder.glob("users/*.csv")):
                name = f"{path.parent.name}/good {number} {path.name}"
                self._write(NewFile(name, path.read_bytes(), files[0].modified))
        for file in files:
            self._write(file)
        self.expected: Outcome = Oracle().run(self.application.input)

    def _write(self, file: NewFile) -> None:
        file.write(self.application.input)

    def run(self, *arguments: str) -> dict[str, Any]:
        assert self.application.run(*arguments) == self.expected.exit_code
        return self.application.result()

    def problems(self) -> list[str]:
        """Everything that is not as it must be, a line each."""
        result = self.application.result()
        found = [f"{name}: listed {times} times" for name, times in self._fates(result).items() if times != 1]
        fates = fate_differences(result, self.expected.files)
        found += [line for line in fates if line.rpartition(": ")[2] not in EITHER]
        for file in result["files"]:
            if file["outcome"] == "rejected" and not (file["reason"] and file["message"]):
                found.append(f"{file['name']}: rejected without a reason")
            if file["outcome"] == "accepted" and file["rows"] != _with_a_fate(file):
                found.append(f"{file['name']}: {file['rows']} rows, but {_with_a_fate(file)} have a fate")
            if file["reason"] == "too_many_quarantined":
                found += self._sample_problems(file)
        return found + self._quarantine_problems() + differences(self.application.kpis(), self.expected.tables)

    def _sample_problems(self, file: dict[str, Any]) -> list[str]:
        """The bad rows that a rejected file shows are its own, and up to five (header lines are none)."""
        bad = {(row.raw[:500], row.reasons) for row in self.expected.files[file["name"]].bad_rows}
        shown = [(sample["raw"].rstrip("\r")[:500], frozenset(sample["reasons"])) for sample in file["samples"]]
        right = len(shown) <= 5 and all(row in bad or "listen_time" in row[0] for row in shown)
        return [] if right else [f"{file['name']}: samples {shown!r:.300}"]

    def _fates(self, result: dict[str, Any]) -> dict[str, int]:
        """How often each file below the input, or named by the result, is named there."""
        told = Counter([file["name"] for file in result["files"]] + result["ignored_files"])
        told.update(file["name"] for file in result["passed_over"])
        there = [path for path in self.application.input.rglob("*") if path.is_file()]
        names = {path.relative_to(self.application.input).as_posix() for path in there}
        return {name: told[name] if name in names else -1 for name in names | told.keys()}

    def _quarantine_problems(self) -> list[str]:
        columns = ("file_name", "line_number", "raw", "reasons")
        rows = self.application.rows("quarantine/records", columns)
        found = Counter((name, line, _comparable(raw), frozenset(reasons)) for name, line, raw, reasons in rows)
        wanted = Counter(
            (name, row.line_number, _comparable(row.raw), row.reasons)
            for name, fate in self.expected.files.items()
            if fate.outcome == "accepted"
            for row in fate.bad_rows
        )
        lines = [f"quarantine: only the application has {row!r:.300}" for row in found - wanted]
        return lines + [f"quarantine: only the oracle has {row!r:.300}" for row in wanted - found]


def _with_a_fate(file: dict[str, Any]) -> int:
    return int(file["valid"] + file["duplicates"] + file["quarantined"])


def _comparable(raw: str) -> str:
    """A huge text by its ends and its size, so that a failure can be read."""
    return raw if len(raw) < 10_000 else f"{raw[:50]}…{raw[-50:]} ({len(raw)})"


def fuzz(spark: SparkSession, directory: Path, good: Sequence[Path], files: Sequence[NewFile], seed: int) -> Batch:
    """One run over hostile files and good ones."""
    batch = Batch(spark, directory, good, files)
    batch.run()
    problems = batch.problems()
    assert problems == [], f"seed {seed}: {len(problems)} problems, the first ones: " + "\n".join(problems[:20])
    return batch


def fates_of(batch: Batch) -> Counter[str]:
    """How many files, and rows of the accepted ones, had which fate."""
    result = batch.application.result()
    fates = Counter(file["reason"] or file["outcome"] for file in result["files"])
    fates["ignored"] = len(result["ignored_files"])
    fates["rows"] = sum(fate.rows for fate in batch.expected.files.values() if fate.outcome == "accepted")
    fates["quarantined rows"] = sum(
        fate.quarantined for fate in batch.expected.files.values() if fate.outcome == "accepted"
    )
    return fates


def test_a_look_into_a_file_finds_what_the_independent_engine_finds(sample: Path, tmp_path: Path) -> None:
    """Without Spark: whether a file can be read at all, and for which reason not."""
    looked_at = 0
    for file in HostileFiles(7, read_seeds(sample), huge_fields=0).make(400):
        dataset, _, relative = file.name.partition("/")
        if is_ignored(relative):
            continue
        file.write(tmp_path)
        path = str(tmp_path / file.name)
        found = inspect_file(
            InputFile(Dataset(dataset), file.name, path, len(file.content), file.modified, None), load_settings("local")
        )
        if found.reason not in {"hidden_name", "unreadable_name"}:
            wanted = _reason(file, dataset)
            assert found.reason == wanted or f"reason is {found.reason}, not {wanted}" in EITHER, file.name
            looked_at += 1
    assert looked_at > 300


def _reason(file: NewFile, dataset: str) -> str | None:
    required, optional = REQUIRED[dataset], OPTIONAL[dataset]
    try:
        read_table(file.name, file.content, required, optional, multi_line=dataset != "streams")
    except FileRejectedError as error:
        return error.reason
    return None


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_thousands_of_hostile_files(
    spark: SparkSession, sample: Path, tmp_path: Path, figure: Callable[[str], None]
) -> None:
    """Made of the sample, and of the shared data where it is beside the repository."""
    good = [folder for folder in (sample, SHARED_DATA) if folder.exists()]
    seeds = [seed for folder in good for seed in read_seeds(folder)]
    for number in range(max(1, FILES // A_BATCH)):
        seed = FIRST_SEED + number
        files = HostileFiles(seed, seeds, HUGE_FIELDS).make(min(FILES, A_BATCH))
        batch = fuzz(spark, tmp_path / str(seed), good, files, seed)
        told = ", ".join(f"{count:,} {fate}" for fate, count in fates_of(batch).most_common())
        figure(f"hostile files, seed {seed}: {len(files):,} spoilt files beside good ones: {told}; lost: 0")
        before = batch.application.versions()
        assert batch.application.run() == 0
        assert batch.application.result()["status"] == "nothing_to_do"
        assert batch.application.versions() == before
