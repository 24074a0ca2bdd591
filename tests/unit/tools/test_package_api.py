"""The KPI API as it is deployed: its package answers by itself, its role reads what the code reads, and only reads."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kpi_common.conf_files import load_toml
from tools.package import build_api
from tools.toolchain import ROOT

TEMPLATE = ROOT / "conf" / "aws" / "kpi_api.yaml"
VIEWS = ("daily_genre", "top_songs", "hourly", "daily_country")


def test_the_role_only_reads_and_just_the_tables_that_the_api_reads() -> None:
    text = TEMPLATE.read_text(encoding="utf-8")
    assert set(re.findall(r"dynamodb:(\w+)", text)) == {"Query", "BatchGetItem", "Scan"}
    tables = load_toml("dynamodb/kpi_tables.toml")["tables"]
    names = {tables[view]["name"] for view in VIEWS} | {load_toml("dynamodb/operations.toml")["tables"]["status"]}
    assert set(re.findall(r"table/\$\{TablePrefix\}(\w+)", text)) == names


def test_the_template_is_one() -> None:
    pytest.importorskip("cfnlint")
    subprocess.run([str(Path(sys.executable).with_name("cfn-lint")), str(TEMPLATE)], check=True)


def test_the_package_needs_nothing_of_the_repository(tmp_path: Path) -> None:
    archive = build_api(tmp_path / "kpi_api.zip")
    http = {"method": "GET", "path": "/nowhere", "sourceIp": "", "protocol": "", "userAgent": ""}
    event = {
        "version": "2.0",
        "rawPath": "/nowhere",
        "headers": {},
        "requestContext": {"http": http, "stage": "$default"},
    }
    # Its own pydantic is for Lambda's Python, so this Python's stands first.
    code = (
        "import json, sys; from api.handler import handler; print(json.dumps(handler(json.loads(sys.argv[1]), None)))"
    )
    site = str(Path(json.__file__).parents[1])
    packages = os.pathsep.join([str(tmp_path / "own"), site])
    subprocess.run([sys.executable, "-m", "zipfile", "-e", str(archive), str(tmp_path / "all")], check=True)
    (tmp_path / "own").mkdir()
    for name in ("api", "kpi_common"):
        (tmp_path / "all" / name).rename(tmp_path / "own" / name)
    command = [sys.executable, "-c", code, json.dumps(event)]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": packages, "AWS_REGION": "eu-central-1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(json.loads(done.stdout)["body"])["type"] == "/problems/no-such-path"
