"""A user is forgotten: nothing in the lake names them, KPIs are as without them, and no replay brings them back."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from pyspark.sql import SparkSession

from spark_app.cli import main
from tests.integration.application import Application, NewFile, differences
from tests.integration.bad_files import MODIFIED
from tests.oracle import Oracle

pytestmark = [pytest.mark.integration, pytest.mark.long]
GONE, NAME = 7654321, "Zoe Gone"
MONDAY, TUESDAY = "2024-06-24", "2024-06-25"
USERS = "user_id,user_name,user_age,user_country,created_at"
STREAMS = "user_id,track_id,listen_time"
LISTENS = [f"{user},t{user % 3},{MONDAY} 10:{user:02}:{second:02}" for user in range(1, 6) for second in range(10)]
OF_GONE = [f"{GONE},t1,{MONDAY} 11:00:00", f"{GONE},t1,{MONDAY} 11:00:00", f"{GONE},t0,{TUESDAY} 09:00:00"]
BAD = [f"{GONE},t1,never", f"{GONE},t1", f"x,{GONE},{MONDAY} 10:00:00", "x,t1,never"]
REFUSED = [f"{GONE},t{n},never" for n in range(7)]
FILES = {
    "songs/s.csv": [
        "id,track_id,artists,album_name,track_name,popularity,duration_ms,track_genre",
        *(f"{n},t{n},Ann,Album,Tune {n},50,1000,pop" for n in range(3)),
    ],
    "users/u.csv": [
        USERS,
        *(f"{n},User {n},30,DE,2024-01-01" for n in range(1, 6)),
        f'{GONE},"{NAME}",40,FR,2024-01-01',
    ],
    "streams/a.csv": [STREAMS, *LISTENS, *LISTENS[:25], *OF_GONE, *BAD],
    "streams/only.csv": [STREAMS, f"{GONE},t2,{TUESDAY} 12:00:00"],
    "streams/refused.csv": [STREAMS, *REFUSED],
}


def put(folder: Path, name: str, lines: list[str], hours: int = 0) -> None:
    data = ("\n".join(lines) + "\n").encode()
    NewFile(name, gzip.compress(data) if name.endswith(".gz") else data, MODIFIED + timedelta(hours=hours)).write(
        folder
    )


@pytest.fixture
def application(spark: SparkSession, tmp_path: Path) -> Application:
    (tmp_path / "key").write_text("a key of more than thirty-two characters", "utf-8")
    found = Application(spark, tmp_path / "input", tmp_path / "lake", {"forget_key": str(tmp_path / "key")})
    for name, lines in FILES.items():
        put(found.input, name, lines)
    return found


def forget(application: Application, *arguments: str) -> int:
    given = ["--lake", str(application.lake), "--set", f"forget_key={application.settings['forget_key']}"]
    return main(["forget-user", *arguments, *given], spark=application.spark)


def texts(path: Path) -> list[Any]:
    """What a Parquet file holds of people: user ids, and raw text."""
    found = duckdb.execute("SELECT * FROM read_parquet(?, hive_partitioning = false)", [str(path)])
    columns = [place for place, column in enumerate(found.description or []) if column[0] in {"user_id", "raw"}]
    return [[row[place] for place in columns] for row in found.fetchall()]


def naming(folder: Path, user_id: str = str(GONE)) -> list[str]:
    """All files below a folder that name the user, old versions of tables among them."""
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        if path.suffix == ".parquet":
            data = str(texts(path)).encode()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
        if re.search(rf"\b{user_id}\b|{NAME}".encode(), data):
            found.append(path.relative_to(folder).as_posix())
    return found


def without_the_user(folder: Path) -> Path:
    """The same input as if they had never been."""
    for name, lines in FILES.items():
        put(folder, name, [line for line in lines if str(GONE) not in line])
    return folder


def test_a_user_is_removed_everywhere_and_stays_away(application: Application, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    put(archive, "streams/2024-06-27/old.csv.gz", [STREAMS, *LISTENS, *OF_GONE])
    (archive / "streams" / "reason.csv.reason.json").write_text(json.dumps({"samples": [{"raw": REFUSED[0]}]}), "utf-8")
    assert application.run() == 0
    assert naming(application.lake)
    versions = application.versions()

    folders = ["--files", str(application.input), "--files", str(archive)]
    assert forget(application, str(GONE), *folders, "--dry-run") == 0
    listed = application.result()["forgotten"]
    assert listed["rows"] == {"staged/streams": 3, "staged/users": 1, "quarantine/records": 3}
    assert listed["dates"] == [MONDAY, TUESDAY]
    assert {Path(file["uri"]).name: file["lines"] for file in listed["files"]} == {
        "a.csv": 6,
        "only.csv": 1,
        "refused.csv": 7,
        "u.csv": 1,
        "old.csv.gz": 3,
        "reason.csv.reason.json": 1,
        "result.json": 5,
    }
    assert application.versions() == versions
    assert not (application.lake / "ops" / "forgotten.json").exists()

    ids = tmp_path / "ids"
    ids.write_text(f"{GONE}\n", "utf-8")
    assert forget(application, "--ids", str(ids), *folders) == 0
    done = application.result()
    assert done["forgotten"]["rows"] == listed["rows"]
    assert done["dirty_dates"] == [MONDAY, TUESDAY]
    assert done["export"]["dates"] == 2
    assert "6 files name forgotten users; --rewrite takes these rows out" in done["warnings"][0]
    assert naming(application.lake) == []
    kpis = Oracle().run(without_the_user(tmp_path / "never")).tables
    assert differences(application.kpis(), kpis) == []

    before = {path: path.stat().st_mtime_ns for path in application.input.rglob("*.csv")}
    assert forget(application, *folders, "--rewrite") == 0
    assert all(file["rewritten"] for file in application.result()["forgotten"]["files"])
    assert naming(application.input) == naming(archive) == []
    assert {path: path.stat().st_mtime_ns for path in application.input.rglob("*.csv")} == before
    assert application.run() == 0
    last = application.result()
    assert (last["files"], last["dirty_dates"]) == ([], []), "a rewritten file is no new version"
    assert differences(application.kpis(), kpis) == []


def test_a_replay_brings_nothing_back_and_every_row_has_its_fate(application: Application) -> None:
    assert application.run() == 0
    assert forget(application, str(GONE)) == 0
    kpis = application.kpis()
    for name in ("streams/a.csv", "users/u.csv"):
        put(application.input, name.replace(".csv", "2.csv.gz"), FILES[name], hours=1)
    put(application.input, "streams/new.csv", [STREAMS, f"{GONE},t0,{TUESDAY} 10:00:00"])
    assert application.run() == 0
    files = {file["name"]: file for file in application.result()["files"]}
    counts = ("rows", "valid", "duplicates", "quarantined", "forgotten", "unknown_users")
    assert [files["streams/a2.csv.gz"][count] for count in counts] == [82, 50, 25, 1, 6, 0]
    assert [files["users/u2.csv.gz"][count] for count in counts] == [6, 5, 0, 0, 1, 0]
    assert [files["streams/new.csv"][count] for count in counts] == [1, 0, 0, 0, 1, 0]
    assert application.result()["totals"]["forgotten"] == 7
    assert naming(application.lake) == []
    assert differences(application.kpis(), kpis) == []

    application.settings.pop("forget_key")  # type: ignore[attr-defined]
    assert application.run() == 2
    assert "`forget_key` is empty" in application.result()["error"]["message"]


def test_a_copy_of_an_old_lake_is_cleaned_by_the_hashes_alone(application: Application, tmp_path: Path) -> None:
    """As after a backup of the tables was brought back: no id has to be known any more."""
    assert application.run() == 0
    shutil.copytree(application.lake, tmp_path / "backup")
    assert forget(application, str(GONE)) == 0
    shutil.copy2(application.lake / "ops" / "forgotten.json", tmp_path)
    shutil.rmtree(application.lake)
    shutil.copytree(tmp_path / "backup", application.lake)
    os.replace(tmp_path / "forgotten.json", application.lake / "ops" / "forgotten.json")  # noqa: PTH105
    assert forget(application) == 0
    assert application.result()["forgotten"]["rows"]["staged/streams"] == 3
    assert naming(application.lake) == []


def test_wrong_arguments_are_said_before_anything_is_done(
    application: Application, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "ids"
    bad.write_text("1\nZoe\n", "utf-8")
    for arguments, message in (
        ([], "name a user's id, or a file of ids with --ids"),
        (["--ids", str(bad)], "expected one whole number on each line"),
        (["--ids", str(tmp_path / "none")], "there is no such file"),
    ):
        assert forget(application, *arguments) == 2
        assert message in capsys.readouterr().err
    assert not (application.lake / "staged").exists()
