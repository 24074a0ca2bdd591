"""Every command in a block of the pages is run, or its block is marked as needing AWS: ```console aws.

A test names the command that it runs by `runs`. Other commands stand word for word in `.ci/run`, or on a page from
which a test takes all commands.
"""

from __future__ import annotations

import importlib
import json
import re
import shlex
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.support.documented_commands import bash, documented, run_by_tests, runs
from tests.support.kpi_lake import make_kpi_lake
from tests.support.large_export import kpi_items, write_large_export
from tests.support.postgres import PASSWORD, USER, Gate, Postgres, make_certificate
from tools.dynamodb_local import free_port
from tools.main_job import sample_data
from tools.toolchain import ROOT

pytestmark = pytest.mark.integration
TAKEN_FROM = {"docs/runbook.md": "tests/integration/test_recovery.py"}
ALSO_RUN_BY = "tests.image.test_documented_commands"


def test_every_command_is_run_or_needs_aws() -> None:
    importlib.import_module(ALSO_RUN_BY)
    assert all(f'"{Path(page).name}"' in (ROOT / test).read_text("utf-8") for page, test in TAKEN_FROM.items())
    ci = re.findall(r"^ *section '.*?' (.*)$", (ROOT / ".ci" / "run").read_text("utf-8"), re.MULTILINE)
    shown = {command: page for page, command in documented() if page not in TAKEN_FROM}
    unknown = {command: page for command, page in shown.items() if command not in {*ci, *run_by_tests}}
    assert unknown == {}, f"no test runs these; see the top of {Path(__file__).name}"
    assert run_by_tests - set(shown) == set(), "these are on no page"


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_kpi_lake(tmp_path_factory.mktemp("lake"), days=2, runs=1)


@runs("./build.sh help")
def test_help(command: str) -> None:
    listed = re.findall(r"^  (\w+) ", bash(command), re.MULTILINE)
    assert {"run", "serve", "test", "report"} <= set(listed)


@runs("./build.sh sql", "--lake", "LAKE")
def test_tables(command: str, lake: Path) -> None:
    assert "top_genres" in bash(command, LAKE=lake)


@runs('./build.sh sql "select * from top_genres limit 5"', "--lake", "LAKE")
def test_query(command: str, lake: Path) -> None:
    assert "genre 0" in bash(command, LAKE=lake)


@runs("./build.sh sql --format csv - < query.sql", "--lake", "LAKE")
def test_query_of_a_file(command: str, lake: Path, tmp_path: Path) -> None:
    query = tmp_path / "query.sql"
    query.write_text("select sum(listen_count) as listens from hourly", "utf-8")
    assert bash(command, LAKE=lake, **{"query.sql": query}) == "listens\n1728\n"


@runs("./build.sh report", "--lake", "LAKE", "--output", "FILE")
def test_report(command: str, lake: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    assert bash(command, LAKE=lake, FILE=page) == f"report  {page.as_uri()}\n"
    assert page.read_text("utf-8").startswith("<!doctype html>")


@runs("./build.sh deploy --region eu-central-1 --dry-run")
def test_deployment_is_shown(command: str) -> None:
    assert "aws cloudformation" in bash(command)


@runs("./build.sh serve", "--lake", "LAKE", "--port", "PORT", "--no-browser")
def test_api(command: str, tmp_path: Path) -> None:
    lake, port = tmp_path / "lake", free_port()
    lake.mkdir()
    days = kpi_items(100)
    write_large_export(lake, 1, days)
    command = command.replace("LAKE", shlex.quote(str(lake))).replace("PORT", str(port))
    with subprocess.Popen(["bash", "-c", f"exec {command}"], cwd=ROOT) as server:
        try:
            health = json.load(answer_of(f"http://127.0.0.1:{port}/health", server))
            assert (health["status"], [health["newest_day"]]) == ("ok", list(days))
            assert b"swagger" in answer_of(f"http://127.0.0.1:{port}/docs", server).read()
        finally:
            server.terminate()


def answer_of(address: str, server: subprocess.Popen[bytes]) -> Any:
    while server.poll() is None:
        try:
            return urllib.request.urlopen(address)  # noqa: S310 (always http)
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the server ended")


@pytest.mark.long
@runs("./build.sh run --input DIR --lake LAKE")
def test_run_on_own_files(command: str, tmp_path: Path) -> None:
    shown = bash(command, DIR=sample_data(), LAKE=tmp_path / "lake")
    assert "Top genres of" in shown
    assert list((tmp_path / "lake").glob("exports/*/delivered.json"))


@pytest.mark.long
@runs(
    "./build.sh run --input DIR --songs jdbc:postgresql://localhost/music --set database_secret=/run/secrets/music.json"
)
def test_run_with_songs_of_a_database(command: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text(json.dumps({"username": USER, "password": PASSWORD}), "utf-8")
    with Postgres() as server, Gate(server.socket, make_certificate(tmp_path, "localhost")) as gate:
        server.sql(
            "CREATE TABLE songs (track_id text, artists text, track_name text, duration_ms int, track_genre text)"
        )
        server.sql("INSERT INTO songs VALUES ('only-here', 'Ann', 'Alpha', 1000, 'pop')")
        words = {"jdbc:postgresql://localhost/music": gate.url(), "/run/secrets/music.json": secret}
        bash(command + " --lake LAKE --no-delivery", DIR=sample_data(), LAKE=tmp_path / "lake", **words)
    (result,) = (json.loads(path.read_text("utf-8")) for path in tmp_path.glob("lake/runs/*/result.json"))
    (songs,) = (file for file in result["files"] if file["name"].startswith("songs/jdbc/"))
    assert (songs["outcome"], songs["valid"]) == ("accepted", 1)


@pytest.mark.long
@runs("./build.sh bench --only ours --only DuckDB --rows 35000 --rounds 1")
def test_bench(command: str) -> None:
    assert "CPU s" in bash(command)


@pytest.mark.long
@runs("./build.sh dag")
def test_dag(command: str) -> None:
    assert ": success" in " ".join(bash(command).split())
