"""The command line of the delivery, as a process of its own: output, exit codes, messages."""

import json
import signal
import time
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer
from mypy_boto3_dynamodb import DynamoDBClient

from kpi_pipeline.cli import main
from kpi_pipeline.export.reader import RECEIPT
from tests.integration.delivery_helpers import days, expected, kpis, run_command, start_command, statuses
from tests.support.export_files import DAILY, HOURLY, write_export
from tools.dynamodb_local import CREDENTIALS, free_port

pytestmark = pytest.mark.integration


def test_deliver_and_read(dynamodb: DynamoDBClient, table_prefix: str, tmp_path: Path) -> None:
    write_export(tmp_path, 1, days(2))
    deliver = ("deliver", "--lake", str(tmp_path), "--table-prefix", table_prefix)
    code, out, err = run_command(*deliver, "--max-write-rate", "1000", "--workers", "2", "--lease-seconds", "5")
    assert code == 0, err
    assert out.splitlines()[0] == "export 1 of run run-1 is delivered"
    assert out.splitlines()[1].split() == ["table", "put", "deleted", "unchanged", "requests", "retries"]
    logged = [json.loads(line) for line in err.splitlines()]
    assert {"time", "level", "message", "run_id"} <= logged[-1].keys()
    assert kpis(dynamodb, table_prefix) == expected(days(2))

    code, out, _ = run_command(*deliver, "--json")
    assert (code, json.loads(out)["outcome"]) == (0, "nothing_to_deliver")

    read = ("read", "--date", "2024-06-02", "--table-prefix", table_prefix, "--table", DAILY, "--table", HOURLY)
    code, out, _ = run_command(*read, "--json")
    day = json.loads(out)
    assert code == 0
    assert (day["status"]["version"], day["consistent"], len(day["tables"][DAILY])) == (1, True, 3)
    assert day["tables"][DAILY][0]["most_popular_track"] == 'Ça "ira", 東京 🎵'
    assert day["tables"][DAILY][0]["avg_track_duration"] == 201500.125
    code, out, _ = run_command(*read, "--limit", "1")
    assert code == 0
    assert "state complete" in out
    assert "DailyGenreKPIs: 1 items" in out
    assert "a, b, ñ" in out
    code, out, _ = run_command("read", "--date", "2023-01-01", *read[3:])
    assert out.splitlines()[0] == "2023-01-01: never delivered"


def test_superseded_and_undeliverable_end_as_a_success(
    dynamodb: DynamoDBClient, table_prefix: str, tmp_path: Path
) -> None:
    deliver = ("deliver", "--lake", str(tmp_path), "--table-prefix", table_prefix)
    write_export(tmp_path, 1, days(1))
    twins = [{"date": "2024-06-01", "genre": "pop", "n": number} for number in (1, 2)]
    write_export(tmp_path, 2, {"2024-06-01": {DAILY: twins}})
    code, out, err = run_command(*deliver)
    assert code == 0
    assert "not delivered (duplicate_key" in out
    assert json.loads(err.splitlines()[-1])["message"].startswith("items that could not be delivered: 1;")
    code, out, _ = run_command(*deliver, "--run-id", "run-1")
    assert code == 0
    assert out.startswith("export 1 is superseded: export 2 (run run-2) has begun and contains it.")
    assert len(kpis(dynamodb, table_prefix)[DAILY]) == 1


def test_mistakes_are_told_in_a_line(
    dynamodb: DynamoDBClient, table_prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_export(tmp_path, 1, days(1))
    write_export(tmp_path, 2, days(1), finished=False)
    lake = ("deliver", "--lake", str(tmp_path))
    mistakes = [
        (2, (), "required"),
        (2, ("deliver",), "--lake"),
        (2, ("deliver", "--lake", "nowhere/at/all"), "there is no such folder"),
        (2, (*lake, "--workers", "0"), "writer.workers"),
        (2, (*lake, "--table-prefix", "a b"), "tables.prefix"),
        (2, (*lake, "--endpoint-url", "nonsense"), "Invalid endpoint"),
        (2, (*lake, "--run-id", "../x"), "is no run id"),
        (2, ("read", "--date", "yesterday"), "is no date"),
        (2, ("read", "--date", "2024-06-01", "--table-prefix", table_prefix), "there is no table"),
        (1, (*lake, "--run-id", "run-2"), "manifest.json is missing"),
        (1, (*lake, "--endpoint-url", f"http://127.0.0.1:{free_port()}"), "can't be reached"),
    ]
    for code, arguments, told in mistakes:
        assert _run_here(*arguments) == code, arguments
        printed = capsys.readouterr()
        assert told in printed.err
        assert printed.out == ""
    assert not [name for name in dynamodb.list_tables()["TableNames"] if name.startswith(table_prefix)]


def _run_here(*arguments: str) -> int:
    try:
        return main(arguments)
    except SystemExit as error:  # argparse's own
        return int(str(error.code))


def test_missing_credentials_and_region_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_export(tmp_path, 1, days(1))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    nothing = {"AWS_SHARED_CREDENTIALS_FILE": "none", "AWS_CONFIG_FILE": "none", "AWS_EC2_METADATA_DISABLED": "true"}
    code, _, err = run_command("deliver", "--lake", str(tmp_path), **nothing)
    assert (code, "You must specify a region" in err) == (2, True)
    code, _, err = run_command("deliver", "--lake", str(tmp_path), AWS_REGION="eu-central-1", **nothing)
    assert (code, "Unable to locate credentials" in err) == (2, True)


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_writer_gives_its_lease_back(
    dynamodb: DynamoDBClient, table_prefix: str, tmp_path: Path, ending: signal.Signals
) -> None:
    write_export(tmp_path, 1, days(5, genres=100))
    command = ("deliver", "--lake", str(tmp_path), "--table-prefix", table_prefix)
    writer = start_command(*command, "--max-write-rate", "50", "--lease-seconds", "600")
    deadline = time.monotonic() + 30
    while not _items(dynamodb, table_prefix) and time.monotonic() < deadline:
        time.sleep(0.1)
    writer.send_signal(ending)
    _, err = writer.communicate(timeout=20)
    assert writer.returncode == 1
    assert err.splitlines()[-1] == "interrupted; run it again to go on"
    assert statuses(dynamodb, table_prefix)["2024-06-01"]["state"] == "writing"
    code, _, err = run_command(*command, "--wait-seconds", "0")
    assert code == 0, err
    assert kpis(dynamodb, table_prefix) == expected(days(5, genres=100))


def _items(client: DynamoDBClient, prefix: str) -> int:
    try:
        return client.scan(TableName=prefix + DAILY, Limit=1)["Count"]
    except client.exceptions.ResourceNotFoundException:
        return 0


def test_lake_on_s3(
    dynamodb: DynamoDBClient, table_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same export, put on S3 file by file; `%`, `=` and spaces in the prefix."""
    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
    try:
        s3 = boto3.client("s3", endpoint_url=url, **CREDENTIALS)
        s3.create_bucket(Bucket="lake", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
        for number in (1, 2):
            write_export(tmp_path, number, days(number))
        for file in tmp_path.rglob("*.*"):
            s3.upload_file(str(file), "lake", f"a b/x=50%/{file.relative_to(tmp_path)}")
        lake = ("deliver", "--table-prefix", table_prefix, "--lake", "s3://lake/a b/x=50%/")
        code, out, err = run_command(*lake)
        assert code == 0, err
        assert out.startswith("export 2 of run run-2 is delivered")
        assert kpis(dynamodb, table_prefix) == expected(days(2))
        receipt = json.loads(s3.get_object(Bucket="lake", Key=f"a b/x=50%/exports/run-2/{RECEIPT}")["Body"].read())
        assert receipt["dates"] == 2
        assert run_command(*lake)[1].startswith("nothing to deliver")
        s3.delete_object(Bucket="lake", Key=f"a b/x=50%/exports/run-2/{HOURLY}/part-00000.json.gz")
        code, _, err = run_command(*lake, "--run-id", "run-2")
        assert (code, "s3://lake/a b/x=50%/exports/run-2/HourlyKPIs/part-00000.json.gz is missing" in err) == (1, True)
        code, _, err = run_command("deliver", "--lake", "s3://no-such-bucket/x")
        assert (code, "NoSuchBucket" in err, "Traceback" in err) == (1, True, False)
    finally:
        server.stop()
