"""The server that stands in for DynamoDB on one machine: it starts, keeps data if told to, and never outlives us."""

import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import boto3
import pytest

from tools.dynamodb_local import CREDENTIALS, DynamoDBLocal, DynamoDBLocalError

pytestmark = pytest.mark.integration
ROOT = Path(__file__).resolve().parents[2]


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=2)  # noqa: S310 (always http)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def test_data_survives_in_a_folder(tmp_path: Path) -> None:
    for start in range(2):
        with DynamoDBLocal(tmp_path / "dä ta") as server:
            client = boto3.client("dynamodb", endpoint_url=server.url, **CREDENTIALS)
            if start == 0:
                client.create_table(
                    TableName="kept",
                    KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
                    AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
                    BillingMode="PAY_PER_REQUEST",
                )
            assert client.list_tables()["TableNames"] == ["kept"]
        assert not answers(server.url)


def test_server_ends_with_a_killed_parent() -> None:
    script = (
        "import time; from tools.dynamodb_local import DynamoDBLocal\n"
        "server = DynamoDBLocal(); server.start(); print(server.url, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    url = parent.stdout.readline().strip()
    assert answers(url)
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 10
    while answers(url) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not answers(url)


def test_no_java_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(DynamoDBLocalError, match="no java found"):
        DynamoDBLocal().start()
