"""Keys in S3 may be nearly anything: each file of an odd name is taken, or refused with a reason, over S3A."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.integration.bad_files import HEADERS, good_rows, rows
from tests.integration.bad_runs import REPOSITORY
from tools.spark_submit import submit_command, submit_environment

pytestmark = [pytest.mark.integration, pytest.mark.s3, pytest.mark.long]

TAKEN = (
    "plain.csv",
    "with space.csv",
    " leading and trailing .csv",
    "a+b.csv",
    "100%.csv",
    "%2F..%2F.csv",
    "a=1/b=2.csv",
    "12:30:00.csv",
    "what?.csv",
    "#1.csv",
    "a&b;c,d@e$f!.csv",
    "(a)[b]{c}*~'\"`|^<>.csv",
    "a..b.csv",
    "a/b..c/d.csv",
    "--set x=1.csv",
    "${HOME} {{x}}.csv",
    "ünï cödé 日本 별 😀 \U0010fffd.csv",
    "e\u0301.csv",
    "é.csv",
    "\u202egpj.csv",
    "back\\slash.csv",
    "x" * 200 + ".csv",
)
REFUSED = {
    "*12:30.csv": "unreadable_name",
    "//empty folder.csv": "unreadable_name",
    "a//b.csv": "unreadable_name",
    "_hidden.csv": "hidden_name",
}
PASSED_OVER = (
    "../up.csv",
    "..csv.csv",
    "a/../../../../lake/up.csv",
    "./here.csv",
    ".dot.csv",
    "_temporary/x.csv",
    "x.CSV",
)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="odd")
    yield client
    server.stop()


def test_every_key_has_one_fate(s3: Any, tmp_path: Path) -> None:
    for dataset in ("songs", "users"):
        body = rows(HEADERS[dataset], good_rows(dataset, "good"))
        s3.put_object(Bucket="odd", Key=f"raw/{dataset}/good.csv", Body=body)
    song = good_rows("songs", "good")[0].split(",")[1]
    for number, name in enumerate((*TAKEN, *REFUSED, *PASSED_OVER)):
        listens = [f"{number},{song},2024-06-25 {hour:02d}:00:00" for hour in range(number % 20 + 1)]
        s3.put_object(Bucket="odd", Key=f"raw/streams/{name}", Body=rows(HEADERS["streams"], listens))
    command = submit_command(["run", "--input", "s3://odd/raw", "--lake", str(tmp_path / "lake")], ("delta", "s3"))
    environment = submit_environment(os.environ, ("delta", "s3"), short_run=True)
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (path,) = (tmp_path / "lake").glob("runs/*/result.json")
    result = json.loads(path.read_text("utf-8"))
    files = {file["name"]: file for file in result["files"] if file["dataset"] == "streams"}
    fates = {name: file["reason"] or file["outcome"] for name, file in files.items()}
    assert fates == {f"streams/{name}": "accepted" for name in TAKEN} | {
        f"streams/{name}": reason for name, reason in REFUSED.items()
    }
    assert result["ignored_files"] == sorted(f"streams/{name}" for name in PASSED_OVER)
    for number, name in enumerate(TAKEN):
        assert files[f"streams/{name}"]["valid"] == number % 20 + 1, name
