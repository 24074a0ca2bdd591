"""tests/bad_input_cases.toml, each case tried: many bad files beside good ones in one run, others in their own."""

from __future__ import annotations

import shutil
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from spark_app.cli import main
from tests.integration import bad_runs
from tests.integration.application import Application, NewFile, differences, fate_differences
from tests.integration.bad_files import (
    GOOD_ROWS,
    GOOD_SONGS,
    HEADERS,
    MODIFIED,
    FileCase,
    file_cases,
    good_rows,
    read_cases,
    rows,
)
from tests.integration.bad_runs import Place
from tests.oracle import Oracle, Outcome

pytestmark = pytest.mark.slow

FILE_CASES = file_cases()
RUN_CASES = read_cases("run")


@dataclass(frozen=True)
class Batch:
    """All files of the table and the good ones, run once."""

    application: Application
    exit_code: int
    expected: Outcome
    quarantined: dict[str, list[tuple[Any, ...]]]

    def file(self, name: str) -> dict[str, Any]:
        (found,) = (file for file in self.application.result()["files"] if file["name"] == name)
        return dict(found)


def good_files() -> list[NewFile]:
    return [
        NewFile("songs/good.csv", GOOD_SONGS.encode(), MODIFIED),
        NewFile("users/good.csv", rows(HEADERS["users"], good_rows("users", "users/good.csv")), MODIFIED),
        NewFile("streams/good.csv", rows(HEADERS["streams"], good_rows("streams", "streams/good.csv")), MODIFIED),
    ]


@pytest.fixture(scope="module")
def batch(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Batch:
    directory = tmp_path_factory.mktemp("batch")
    for file in (*good_files(), *(case.file() for case in FILE_CASES)):
        file.write(directory / "input")
    application = Application(spark, directory / "input", directory / "lake", {})
    exit_code = application.run()
    columns = ("dataset", "file_name", "line_number", "raw", "reasons", "run_id")
    quarantined = defaultdict(list)
    for row in application.rows("quarantine/records", columns):
        quarantined[f"{row[1]}"].append(row)
    return Batch(application, exit_code, Oracle().run(application.input), quarantined)


@pytest.mark.parametrize("case", FILE_CASES, ids=lambda case: case.case)
def test_a_file_has_the_fate_of_the_table(batch: Batch, case: FileCase) -> None:
    file = batch.file(case.name)
    assert (file["outcome"], file["reason"]) == (case.outcome, case.reason)
    assert file["message"] or case.reason is None
    assert fate_differences({"files": [file]}, {case.name: batch.expected.files[case.name]}) == []
    if case.outcome == "accepted":
        assert file["rows"] == file["valid"] + file["duplicates"] + file["quarantined"]
        assert (file["waiting"], file["duplicates"]) == (case.waiting, case.duplicates)
        assert file["quarantined"] == sum(len(row) > 1 for row in case.add)


@pytest.mark.parametrize(
    "case", [case for case in FILE_CASES if case.outcome == "accepted"], ids=lambda case: case.case
)
def test_a_quarantined_row_is_kept_with_its_line_and_its_reasons(batch: Batch, case: FileCase) -> None:
    """The table's reasons; the line numbers are the oracle's."""
    found = [(line, raw, set(reasons)) for dataset, name, line, raw, reasons, run_id in batch.quarantined[case.name]]
    oracle = [(row.line_number, row.raw, set(row.reasons)) for row in batch.expected.files[case.name].bad_rows]
    assert sorted(found, key=repr) == sorted(oracle, key=repr)
    told = [(raw.splitlines()[0], set(reasons)) for raw, *reasons in case.add if reasons]
    assert sorted(((raw.splitlines()[0], reasons) for _, raw, reasons in found), key=repr) == sorted(told, key=repr)


def test_other_files_are_unharmed(batch: Batch) -> None:
    assert batch.exit_code == batch.expected.exit_code == 0
    assert batch.file("streams/good.csv")["valid"] == GOOD_ROWS
    assert fate_differences(batch.application.result(), batch.expected.files) == []
    assert differences(batch.application.kpis(), batch.expected.tables) == []


def test_ignored_columns_are_noted(batch: Batch) -> None:
    assert "device" in " ".join(batch.file("streams/extra column.csv")["notes"])


def test_nothing_but_bad_files_is_nothing_usable(batch: Batch, tmp_path: Path) -> None:
    """Each file that the table has as rejected is tried again, beside a name that is used for another content."""
    shutil.copytree(batch.application.input.parent, tmp_path, dirs_exist_ok=True, copy_function=shutil.copy2)
    application = replace(batch.application, input=tmp_path / "input", lake=tmp_path / "lake")
    reasons = {case.name: case.reason for case in FILE_CASES if case.alone}
    assert main(["files", "retry", *reasons, "--lake", str(application.lake)], spark=application.spark) == 0
    for file in bad_runs.new_streams("streams/good.csv"):
        file.write(application.input)
    before = application.versions()
    assert application.run() == 3
    result = application.result()
    assert (result["status"], result["error"]["code"]) == ("nothing_usable", "all_rejected")
    rejected = {file["name"]: file["reason"] for file in result["files"] if file["outcome"] == "rejected"}
    assert rejected == reasons | {"streams/good.csv": "name_reused"}
    after = application.versions()
    assert {table for table in after if after[table] != before[table]} <= {"quarantine/records"}


@pytest.fixture(scope="module")
def first_run(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake and its input after a run of the good files; to be copied, not changed."""
    directory = tmp_path_factory.mktemp("first")
    for file in good_files():
        file.write(directory / "input")
    assert Application(spark, directory / "input", directory / "lake", {}).run() == 0
    return directory


@pytest.fixture
def place(spark: SparkSession, request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    def start_from_first_run() -> None:
        shutil.copytree(request.getfixturevalue("first_run"), tmp_path, dirs_exist_ok=True, copy_function=shutil.copy2)

    application = Application(spark, tmp_path / "input", tmp_path / "lake", {})
    return Place(application, good_files(), start_from_first_run)


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[pytest.mark.long] * case.get("long", False), id=case["case"]) for case in RUN_CASES],
)
def test_a_run_ends_as_the_table_says(place: Place, case: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    exit_code = getattr(bad_runs, case["arrange"])(place)
    told = capfd.readouterr()
    assert exit_code == case["exit_code"], told.err[-2000:]
    assert "Traceback" not in told.out + told.err
    if case["status"]:
        result = place.application.result()
        assert (result["status"], result["exit_code"]) == (case["status"], case["exit_code"])
        assert (result["error"] or {}).get("code", "") == case["error"]
