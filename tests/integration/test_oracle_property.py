"""The application and the independent engine find the same, cell by cell, whatever comes in.

An example costs several Spark runs, so each is large and they are few: one in the short run of the tests, with the
plans of little data, four in `./build.sh test --all`. `KPI_PROPERTY_EXAMPLES=50` looks for more, and then not for the
same ones each time.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from tests.integration.application import Application, NewFile, differences, fate_differences
from tests.integration.random_inputs import ZONES, Scenario, make_scenario, shuffled, zipped
from tests.oracle import Oracle
from tools.sample_data import make_sample_data

EXAMPLES = int(os.environ.get("KPI_PROPERTY_EXAMPLES", "0"))
SCENARIOS = st.builds(
    make_scenario,
    seed=st.integers(0, 2**32 - 1),
    source_zone=st.sampled_from(ZONES),
    kpi_zone=st.sampled_from(ZONES),
)


def _write(files: Iterable[NewFile], directory: Path) -> None:
    for file in files:
        file.write(directory)


def _application(spark: SparkSession, directory: Path, scenario: Scenario) -> Application:
    zones = {"source_time_zone": scenario.source_zone, "kpi_time_zone": scenario.kpi_zone}
    return Application(spark, directory / "input", directory / "lake", zones)


def _check(spark: SparkSession, scenario: Scenario, directory: Path) -> Application:
    application = _application(spark, directory, scenario)
    oracle = Oracle(scenario.source_zone, scenario.kpi_zone)
    for files in scenario.steps:
        _write(files, application.input)
        expected = oracle.run(application.input)
        assert application.run() == expected.exit_code
        assert fate_differences(application.result(), expected.files) == []
        assert differences(application.kpis(), expected.tables) == []
    return application


@pytest.mark.slow
def test_every_cell_and_every_fate_agrees(spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With joins by hashes, as runs of a million listens have them, and those songs alone that few listens name."""
    monkeypatch.setattr("spark_app.kpis.inputs.MANY_ROWS", 0)
    monkeypatch.setattr("spark_app.lake.tables.Lake.many_references", lambda *_, **__: True)
    application = _check(spark, make_scenario(1, "Australia/Lord_Howe", "America/St_Johns"), tmp_path)
    _check_that_another_run_makes_no_commit(application)


@pytest.mark.long
@pytest.mark.usefixtures("as_for_many_rows")
def test_every_cell_agrees_with_the_plans_of_many_rows(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spark_app.kpis.inputs.MANY_ROWS", 0)
    _check(spark, make_scenario(7, "Asia/Kolkata", "Europe/Berlin"), tmp_path)


def _check_that_another_run_makes_no_commit(application: Application) -> None:
    before = application.versions()
    assert application.run() == 0
    assert application.result()["status"] == "nothing_to_do"
    assert application.versions() == before


@pytest.mark.long
@settings(
    max_examples=max(EXAMPLES, 1),
    database=None,
    deadline=None,
    phases=(Phase.explicit, Phase.generate) if EXAMPLES else (Phase.explicit,),
    suppress_health_check=list(HealthCheck),
)
@given(scenario=SCENARIOS)
@example(scenario=make_scenario(4, "Europe/Berlin", "Asia/Kolkata"))
def test_every_cell_agrees_whatever_comes_and_in_any_order(spark: SparkSession, scenario: Scenario) -> None:
    """Then what came in two runs, zipped or not, comes again in one, its rows in another order."""
    with TemporaryDirectory() as directory:
        application = _check(spark, scenario, Path(directory))
        latest = {file.name: file for files in scenario.steps for file in files}
        again = _application(spark, Path(directory) / "again", scenario)
        for number, file in enumerate(sorted(latest.values(), key=lambda file: file.name, reverse=True)):
            other = shuffled(file, seed=number) if file.name.startswith("streams/") else file
            (zipped(other) if number % 2 else other).write(again.input)
        assert again.run() == 0
        assert differences(again.kpis(), application.kpis()) == []


@pytest.mark.long
def test_the_sample_agrees_and_a_second_run_makes_no_commit(spark: SparkSession, tmp_path: Path) -> None:
    make_sample_data(tmp_path / "input")
    application = Application(spark, tmp_path / "input", tmp_path / "lake", {})
    expected = Oracle().run(application.input)
    assert application.run() == expected.exit_code == 0
    assert fate_differences(application.result(), expected.files) == []
    assert differences(application.kpis(), expected.tables) == []
    _check_that_another_run_makes_no_commit(application)
