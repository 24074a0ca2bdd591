"""The lake's tables in DuckDB: as Delta's log says they are, on a disk and in S3, quickly and with plain errors."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from arro3.core import Array, DataType, Field, Schema, Table
from deltalake import write_deltalake
from moto.server import ThreadedMotoServer

from kpi_common.aws import use_sessions
from kpi_common.errors import StorageError, UsageError
from lake_reader.duckdb_views import connect, table_names
from tools.toolchain import ROOT

KEYS = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_REGION": "eu-central-1"}


def rows(plays: int, **more: str) -> Table:
    """One row of a KPI table; `more` are text columns."""
    columns = {"listen_date": ("2024-06-24", DataType.string()), "plays": (plays, DataType.int64())}
    columns |= {name: (text, DataType.string()) for name, text in more.items()}
    fields = [Field(name, kind) for name, (_, kind) in columns.items()]
    return Table.from_pydict({n: Array([value], type=t) for n, (value, t) in columns.items()}, schema=Schema(fields))


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """One KPI table that was overwritten and got a column, and an empty staged one."""
    lake = tmp_path / "la'ke"
    hourly = str(lake / "kpis" / "hourly")
    write_deltalake(hourly, rows(1), partition_by=["listen_date"])
    write_deltalake(hourly, rows(2), mode="overwrite")
    write_deltalake(hourly, rows(3, artist="Ann"), mode="append", schema_mode="merge")
    write_deltalake(str(lake / "staged" / "users"), rows(1, country="DE").slice(0, 0))
    return lake


def query(lake: Path, text: str) -> list[Any]:
    return connect(str(lake), text).sql(text).fetchall()


def test_a_table_is_what_its_log_says(lake: Path) -> None:
    assert query(lake, "SELECT plays, artist FROM kpis.hourly ORDER BY plays") == [(2, None), (3, "Ann")]
    assert query(lake, "SELECT count(*) FROM hourly WHERE listen_date = '2024-06-24'") == [(2,)]


def test_an_empty_table_has_its_columns(lake: Path) -> None:
    described = connect(str(lake)).sql("DESCRIBE users").fetchall()
    assert [(column[0], column[1]) for column in described] == [
        ("listen_date", "VARCHAR"),
        ("plays", "BIGINT"),
        ("country", "VARCHAR"),
    ]
    assert query(lake, "SELECT * FROM users") == []


def test_only_tables_that_a_query_names_are_opened(lake: Path) -> None:
    (lake / "staged" / "users" / "_delta_log" / "00000000000000000000.json").write_text("no log", "utf-8")
    assert query(lake, "SELECT count(*) FROM hourly") == [(2,)]
    with pytest.raises(StorageError, match=r"staged/users: can't be read as a Delta table"):
        connect(str(lake), "SELECT * FROM users")


def test_what_is_no_lake_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no Delta table in kpis/, staged/ or quarantine/"):
        connect(str(tmp_path))


@pytest.fixture
def in_s3(lake: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The lake in S3, found by the usual variables."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}.items():
        monkeypatch.setenv(name, value)
    use_sessions(lambda: boto3.session.Session(region_name=KEYS["AWS_REGION"]))
    s3 = boto3.client("s3", region_name=KEYS["AWS_REGION"])
    s3.create_bucket(Bucket="music", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    for path in lake.rglob("*"):
        if path.is_file():
            s3.upload_file(str(path), "music", f"lake/{path.relative_to(lake)}")
    yield "s3a://music/lake"
    use_sessions(lambda: boto3.session.Session(region_name=os.environ.get("AWS_REGION")))
    server.stop()


def test_a_lake_in_s3_is_read_with_the_usual_credentials(in_s3: str) -> None:
    assert table_names(in_s3) == ["kpis.hourly", "staged.users"]
    connection = connect(in_s3)
    assert connection.sql("SELECT plays, artist FROM hourly ORDER BY plays").fetchall() == [(2, None), (3, "Ann")]
    assert connection.sql("SELECT * FROM users").fetchall() == []


def sql(lake: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What `./build.sh sql` runs."""
    command = [sys.executable, "-m", "tools.sql", "--lake", str(lake), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_the_command_takes_less_than_two_seconds(lake: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = sql(lake, "--format", "json", "SELECT plays, 0.10::DECIMAL(4,2) AS share FROM hourly ORDER BY plays")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stderr == ""
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines == [{"plays": 2, "share": "0.10"}, {"plays": 3, "share": "0.10"}]
    # CPU seconds: what other processes of this machine do meanwhile is not ours
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 2


def test_the_command_lists_tables_and_tells_what_is_wrong(lake: Path) -> None:
    listed = sql(lake, "--format", "csv").stdout.splitlines()
    assert listed[:2] == ["table,column,type", "kpis.hourly,plays,bigint"]
    wrong = sql(lake, "SELECT * FROM nothing")
    assert wrong.returncode == 2
    assert "nothing" in wrong.stderr
    assert wrong.stderr.startswith("error: ")
    assert "Traceback" not in wrong.stderr
    assert sql(lake / "none").returncode == 2
