"""The other commands on a lake with two days: rebuild, restore, export, files withdraw and retry, compact."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pyspark.sql import SparkSession

from kpi_common.conf_files import load_schema
from spark_app.cli import main
from tests.integration.application import Application, NewFile
from tests.integration.bad_files import HEADERS, MODIFIED, rows

MONDAY, TUESDAY = "2024-06-24", "2024-06-25"


@pytest.fixture(scope="module")
def application(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Application:
    """A lake with two accepted files (a Monday's, a Tuesday's) and a rejected one."""
    directory = tmp_path_factory.mktemp("commands")
    application = Application(spark, directory / "input", directory / "lake", {})
    put(application, "songs/a.csv", "1,A,Ann,Alpha,50,1000,pop", "2,B,Bob,Beta,50,2000,rock")
    put(application, "users/a.csv", "1,Ann,2024-01-01")
    put(application, "streams/monday.csv", f"1,A,{MONDAY} 10:00:00", f"2,A,{MONDAY} 10:00:00")
    put(application, "streams/tuesday.csv", f"1,B,{TUESDAY} 10:00:00")
    put(application, "streams/bad.csv", "x,B,never")
    assert application.run("--run-id", "first") == 0
    return application


def put(application: Application, name: str, *records: str, hours: int = 0) -> None:
    content = rows(HEADERS[name.partition("/")[0]], list(records))
    NewFile(name, content, MODIFIED + timedelta(hours=hours)).write(application.input)


def call(application: Application, *arguments: str) -> int:
    return main([*arguments, "--lake", str(application.lake)], spark=application.spark)


def exported(application: Application) -> dict[str, Any]:
    """Return the manifest of the newest export."""
    manifests = [json.loads(path.read_text("utf-8")) for path in application.lake.glob("exports/*/manifest.json")]
    newest: dict[str, Any] = max(manifests, key=lambda manifest: manifest["export_seq"])
    return newest


def deliver(application: Application) -> None:
    """Leave the receipt that the writer leaves (only its being there matters to the application)."""
    (application.lake / "exports" / exported(application)["run_id"] / "delivered.json").write_text("{}", "utf-8")


def counts(application: Application) -> dict[tuple[str, str], int]:
    """Return listen_count by date and genre."""
    cells = application.rows("kpis/daily_genre", ("listen_date", "track_genre", "listen_count"))
    return {(str(date), genre): count for date, genre, count in cells}


def damage(application: Application, statement: str) -> None:
    """Do to a KPI table what a bad release might."""
    application.spark.sql(statement.format(table=f"delta.`{application.lake}/kpis/daily_genre`"))


def test_results_follow_their_schema(application: Application) -> None:
    result = application.results()[0]
    jsonschema.validate(result, load_schema("run_result"))
    assert result["totals"]["files"] == {"accepted": 4, "rejected": 1}
    assert [check["check"] for check in result["audit"] if not check["passed"]] == []


def test_a_manifest_names_the_files_of_a_run(application: Application, tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.json"
    monday = application.input / "streams" / "monday.csv"
    entry = {"dataset": "streams", "name": "streams/monday.csv", "path": str(monday), "etag": None}
    entry |= {"size": monday.stat().st_size, "modified_at": "2024-07-01T00:00:00Z"}
    gone = entry | {"name": "streams/gone.csv", "path": str(monday.with_name("gone.csv"))}
    manifest.write_text(json.dumps({"schema_version": 1, "run_id": "m", "files": [entry, gone]}), "utf-8")
    assert call(application, "run", "--manifest", str(manifest)) == 0
    assert application.result()["totals"]["files"] == {"already_staged": 1, "missing": 1}
    manifest.write_text('{"schema_version": 1, "run_id": "m", "files": [{}]}', "utf-8")
    assert call(application, "run", "--manifest", str(manifest)) == 2


def test_files_are_listed_and_shown(application: Application, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(application, "files", "list") == 0
    lines = {line.split()[0]: line.split()[1] for line in capsys.readouterr().out.splitlines()}
    assert lines["streams/monday.csv"] == "accepted"
    assert lines["streams/bad.csv"] == "rejected"
    assert call(application, "files", "show", "streams/bad.csv") == 0
    assert "too_many_quarantined" in capsys.readouterr().out
    assert call(application, "files", "show", "streams/none.csv") == 2


def test_a_run_is_restored_and_dates_are_rebuilt(application: Application) -> None:
    """Damage stays on the dates that are not computed: so each command shows which it took."""
    before = counts(application)
    deliver(application)
    damage(application, "UPDATE {table} SET listen_count = 99")
    assert call(application, "rebuild", "--from", TUESDAY) == 0
    assert application.result()["dirty_dates"] == [TUESDAY]
    damaged = before | {(MONDAY, "pop"): 99}
    assert counts(application) == damaged
    assert call(application, "rebuild", "--from", "2030-01-01") == 2

    put(application, "streams/late.csv", f"3,A,{MONDAY} 11:00:00")
    assert application.run("--run-id", "regretted") == 0
    assert counts(application) == before | {(MONDAY, "pop"): 3}
    assert exported(application)["dates"] == [MONDAY, TUESDAY]
    deliver(application)
    assert call(application, "restore", "--run", "regretted") == 0
    assert counts(application) == damaged
    assert exported(application)["dates"] == [MONDAY]
    assert call(application, "restore", "--run", "unheard-of") == 2
    assert call(application, "rebuild", "--to", "2024-06-23") == 2


@pytest.mark.long
def test_what_was_taken_back_is_rebuilt_from_what_is_staged(application: Application) -> None:
    assert call(application, "rebuild", "--to", MONDAY) == 0
    assert application.result()["dirty_dates"] == [MONDAY]
    assert counts(application) == {(MONDAY, "pop"): 3, (TUESDAY, "rock"): 1}


@pytest.mark.long
def test_a_withdrawn_file_takes_its_rows_along_and_can_come_back(application: Application) -> None:
    before = counts(application)
    deliver(application)
    assert call(application, "files", "withdraw", "streams/tuesday.csv") == 0
    assert counts(application) == {key: count for key, count in before.items() if key[0] != TUESDAY}
    manifest = exported(application)
    assert manifest["dates"] == [TUESDAY]
    assert {table["items"] for table in manifest["tables"]} == {0}
    assert call(application, "files", "withdraw", "streams/tuesday.csv") == 2
    assert application.run() == 0
    assert application.result()["status"] == "nothing_to_do"
    assert call(application, "files", "retry", "streams/tuesday.csv") == 0
    assert application.run() == 0
    assert counts(application) == before


def test_export_full_holds_all_days(application: Application) -> None:
    deliver(application)
    assert call(application, "export") == 0
    assert application.result()["export"] is None
    assert call(application, "export", "--full") == 0
    assert exported(application)["full"] is True
    assert exported(application)["dates"] == [MONDAY, TUESDAY]


@pytest.mark.long
def test_compaction_changes_no_figure(application: Application) -> None:
    before = application.kpis()
    deliver(application)
    assert call(application, "compact", "--set", "retention_days=0") == 0
    assert application.kpis() == before
    assert len(list(application.lake.glob("exports/*/manifest.json"))) == 1
    assert application.run() == 0
    assert application.result()["status"] == "nothing_to_do"
