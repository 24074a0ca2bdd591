"""Recovery by hand: the commands of docs/runbook.md, as written there, on a lake and a real DynamoDB."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws
from mypy_boto3_dynamodb import DynamoDBClient
from pyspark.sql import SparkSession

from kpi_common.s3_files import S3Storage
from kpi_pipeline import cli as pipeline_cli
from kpi_pipeline.files.archive import move_done
from kpi_pipeline.files.arrivals import list_source
from kpi_pipeline.files.claims import PROCESSING, REJECTED, SUCCESS, ClaimLedger, Entry
from kpi_pipeline.files.reingest import write_reingest_manifest
from kpi_pipeline.settings import load_delivery_settings, load_pipeline_settings
from spark_app import cli as application_cli
from tests.integration.application import Application, NewFile, differences
from tests.integration.bad_files import HEADERS, MODIFIED, rows
from tests.integration.delivery_helpers import scan
from tests.oracle import Oracle
from tests.oracle.kpis import Rows
from tools.toolchain import ROOT

pytestmark = [pytest.mark.integration]

MONDAY, TUESDAY = "2024-06-24", "2024-06-25"
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text("utf-8")
KEYS = {"aws_access_key_id": "x", "aws_secret_access_key": "x"}
TABLES = (
    "DailyGenreKPIs",
    "DailyCountryKPIs",
    "TopSongsPerGenre",
    "HourlyKPIs",
    "TopAlbumsPerHour",
)


def section(heading: str) -> str:
    return RUNBOOK.partition(f"## {heading}\n")[2].partition("\n## ")[0]


def commands(heading: str) -> list[list[str]]:
    """The commands below a heading of the section, in words."""
    (block,) = re.findall(r"^```console\n(.*?)^```$", section(heading), re.MULTILINE | re.DOTALL)
    return [shlex.split(line) for line in block.splitlines()]


HEADINGS = [h for h in re.findall(r"^## (.*)$", RUNBOOK, re.MULTILINE) if "```console" in section(h)]


@dataclass
class Place:
    """A lake, its input, a database; `tell` runs a command of the runbook with its capitals filled in."""

    application: Application
    database: DynamoDBClient
    prefix: str

    def tell(self, command: list[str], **more: str) -> None:
        words = {"LAKE": str(self.application.lake), "DIR": str(self.application.input), **more}
        filled = [words.get(word, word).replace("NAME", words.get("NAME", "NAME")) for word in command]
        if filled[:2] == ["./build.sh", "app"]:
            assert application_cli.main(filled[2:], spark=self.application.spark) == 0, filled
        else:
            assert filled[:2] == ["./build.sh", "pipeline"]
            before = signal.getsignal(signal.SIGTERM)
            try:
                assert pipeline_cli.main([*filled[2:], *self._quick()]) == 0, filled
            finally:
                signal.signal(signal.SIGTERM, before)

    def _quick(self) -> list[str]:
        return ["--table-prefix", self.prefix]

    def deliver(self) -> dict[str, list[dict[str, Any]]]:
        self.tell(["./build.sh", "pipeline", "deliver", "--lake", "LAKE"])
        return self.items()

    def items(self) -> dict[str, list[dict[str, Any]]]:
        found = {name: scan(self.database, self.prefix + name) for name in TABLES}
        return {name: sorted(items, key=str) for name, items in found.items()}

    def put(self, name: str, *records: str, hours: int = 0) -> None:
        content = rows(HEADERS[name.partition("/")[0]], list(records))
        NewFile(name, content, MODIFIED + timedelta(hours=hours)).write(self.application.input)

    def expected(self) -> dict[str, Rows]:
        """KPIs from scratch over the input as it is."""
        return Oracle().run(self.application.input).tables


@pytest.fixture(scope="module")
def first_run(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An input and its lake, to be copied."""
    directory = tmp_path_factory.mktemp("first")
    application = Application(spark, directory / "input", directory / "lake", {})
    for name, records in {
        "songs/a.csv": ["1,A,Ann,Alpha,50,1000,pop", "2,B,Bob,Beta,50,2000,rock"],
        "users/a.csv": ["1,Ann,2024-01-01"],
        "streams/monday.csv": [f"1,A,{MONDAY} 10:00:00", f"2,A,{MONDAY} 10:00:00"],
    }.items():
        NewFile(name, rows(HEADERS[name.partition("/")[0]], records), MODIFIED).write(application.input)
    assert application.run("--run-id", "first") == 0
    return directory


@pytest.fixture
def place(spark: SparkSession, first_run: Path, tmp_path: Path, dynamodb: DynamoDBClient, table_prefix: str) -> Place:
    shutil.copytree(first_run, tmp_path, dirs_exist_ok=True, copy_function=shutil.copy2)
    return Place(Application(spark, tmp_path / "input", tmp_path / "lake", {}), dynamodb, table_prefix)


def test_every_command_of_the_section_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert HEADINGS
    for command in (command for heading in HEADINGS for command in commands(heading)):
        if command[:2] == ["./build.sh", "app"]:
            application_cli._parser().parse_args(command[2:])
        else:
            assert command[:2] == ["./build.sh", "pipeline"]
            pipeline_cli._parser().parse_args(command[2:])
    assert capsys.readouterr().err == ""


@pytest.mark.long
def test_a_bad_release_is_taken_back_and_its_days_are_computed_again(place: Place) -> None:
    before = place.deliver()
    place.put("streams/tuesday.csv", f"1,B,{TUESDAY} 10:00:00", f"1,A,{MONDAY} 11:00:00")
    assert place.application.run("--run-id", "regretted") == 0
    good = place.deliver()
    damage = "UPDATE {table} SET listen_count = 99, popularity_index = 0"
    place.application.spark.sql(damage.format(table=f"delta.`{place.application.lake}/kpis/daily_genre`"))
    assert application_cli.main(["export", "--lake", str(place.application.lake)], spark=place.application.spark) == 0
    assert place.deliver() not in (before, good)
    restore, first_delivery, rebuild, second_delivery = commands("A release computed wrong KPIs")
    place.tell(restore, RUN_ID="regretted")
    place.tell(first_delivery)
    assert place.items() == before
    place.tell(rebuild)
    place.tell(second_delivery)
    assert place.items() == good
    assert differences(place.application.kpis(), place.expected()) == []
    assert place.application.run() == 0
    assert place.application.result()["status"] == "nothing_to_do"


@pytest.mark.long
@pytest.mark.parametrize("lost", ["the tables", "some items"])
def test_an_emptied_database_is_filled_again(place: Place, lost: str) -> None:
    good = place.deliver()
    for name in (*TABLES, "KPIStatus"):
        if lost == "the tables":
            place.database.delete_table(TableName=place.prefix + name)
        else:
            for item in place.database.scan(TableName=place.prefix + name)["Items"][:2]:
                keys = [key["AttributeName"] for key in _keys(place, name)]
                place.database.delete_item(TableName=place.prefix + name, Key={key: item[key] for key in keys})
    for command in commands("DynamoDB lost its tables"):
        place.tell(command)
    assert place.items() == good


def _keys(place: Place, table: str) -> Any:
    return place.database.describe_table(TableName=place.prefix + table)["Table"]["KeySchema"]


@pytest.mark.long
def test_a_rejected_file_is_looked_at_and_tried_again(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.put("streams/odd.csv", f"3,A,{TUESDAY} 10:00:00", f"x,A,{TUESDAY} 10:00:00", f"4,A,{TUESDAY} 10:00:00")
    assert place.application.run() == 3
    listing, show, retry, run = commands("A file was rejected")
    capsys.readouterr()
    place.tell(listing, NAME="odd")
    assert "streams/odd.csv" in capsys.readouterr().out
    place.tell(show, NAME="odd")
    assert "too_many_quarantined" in capsys.readouterr().out
    place.tell(retry, NAME="odd")
    place.tell(run, NAME="odd")
    (file,) = place.application.result()["files"]
    assert (file["name"], file["outcome"], file["valid"], file["quarantined"]) == ("streams/odd.csv", "accepted", 2, 1)
    assert len(place.deliver()["HourlyKPIs"]) == 2


@pytest.mark.long
def test_a_file_that_should_never_have_come_goes_everywhere(place: Place) -> None:
    good = place.deliver()
    place.put("streams/wrong.csv", f"7,A,{MONDAY} 10:00:00", f"7,B,{TUESDAY} 10:00:00")
    assert place.application.run() == 0
    assert place.deliver() != good
    for command in commands("A file should never have come"):
        place.tell(command, NAME="wrong")
    assert place.items() == good
    assert place.application.run() == 0
    assert place.application.result()["status"] == "nothing_to_do"
    (place.application.input / "streams/wrong.csv").unlink()
    assert differences(place.application.kpis(), place.expected()) == []


@pytest.mark.long
def test_a_user_is_forgotten(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text("k" * 40, "utf-8")
    monkeypatch.setenv("MUSIC_KPIS_FORGET_KEY", str(tmp_path / "key"))
    before = place.deliver()
    for command in commands("A user wants to be forgotten"):
        place.tell(command, **{"4711": "2"})
    assert place.items() != before
    assert (place.application.input / "streams/monday.csv").read_text("utf-8").splitlines()[1:] == [
        f"1,A,{MONDAY} 10:00:00"
    ]
    assert differences(place.application.kpis(), place.expected()) == []


# --- a lost lake ---


@pytest.fixture
def s3(dynamodb: DynamoDBClient) -> Iterator[Any]:  # noqa: ARG001 (DynamoDB Local first: moto is for S3 alone)
    with mock_aws(config={"core": {"passthrough": {"urls": [r"http://127\.0\.0\.1.*"]}}}):
        client = boto3.client("s3", region_name="us-east-1", **KEYS)
        client.create_bucket(Bucket="music")
        yield client


@pytest.fixture
def archive(s3: Any, dynamodb: DynamoDBClient, table_prefix: str) -> Callable[[Application, dict[str, str]], None]:
    """Brings the input's files to the bucket and does with each what the DAG does after a run."""
    needed = {
        "bucket_name": "music",
        "emr_application_id": "a",
        "execution_role_arn": "arn:aws:iam::123456789012:role/x",
    }
    settings = load_pipeline_settings(needed.get)
    ledger = ClaimLedger(load_delivery_settings(prefix=table_prefix), dynamodb)
    ledger.ensure_table()
    buckets = S3Storage(s3)

    def after_run(application: Application, statuses: dict[str, str]) -> None:
        for name in statuses:
            s3.put_object(Bucket="music", Key=f"raw/{name}", Body=(application.input / name).read_bytes())
        files = [file for file in list_source(buckets, settings) if file.name in statuses]
        for file in files:
            entry = Entry(file.name, PROCESSING, file.stored.etag, file.stored.size, "run")
            assert ledger.claim(entry, ledger.read([file.name]).get(file.name))
            (claimed,) = ledger.read([file.name]).values()
            assert ledger.settle(claimed, statuses[file.name])
        move_done(buckets, ledger, settings, files)

    return after_run


@pytest.mark.long
def test_a_lost_lake_is_filled_again_from_the_archive(
    place: Place, s3: Any, archive: Callable[[Application, dict[str, str]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Corrected and rejected files and an odd name among them; S3's objects are laid on the disk for Spark."""
    done = {"songs/a.csv": SUCCESS, "users/a.csv": SUCCESS, "streams/monday.csv": SUCCESS}
    archive(place.application, done)
    place.put("streams/tü sday.csv", f"1,B,{TUESDAY} 10:00:00", f"1,A,{MONDAY} 11:00:00")
    place.put("streams/monday.csv", f"1,A,{MONDAY} 10:00:00", hours=1)
    assert place.application.run() == 0
    archive(place.application, {"streams/monday.csv": SUCCESS, "streams/tü sday.csv": SUCCESS})
    good, kpis = place.deliver(), place.application.kpis()
    place.put("streams/monday.csv", "?,?,?", hours=2)
    assert place.application.run() == 3
    archive(place.application, {"streams/monday.csv": REJECTED})
    left = [entry["Key"] for entry in s3.list_objects_v2(Bucket="music")["Contents"]]
    assert sorted(key for key in left if key.startswith("raw/")) == ["raw/songs/a.csv", "raw/users/a.csv"]
    assert len([key for key in left if key.startswith("archive/streams/")]) == 3

    shutil.rmtree(place.application.lake)
    reingest, run, delivery = commands("The lake is lost")
    monkeypatch.setattr(pipeline_cli, "S3Storage", lambda: S3Storage(s3))
    manifest = place.application.lake.parent / "reingest.json"
    options = pipeline_cli._parser().parse_args([word.replace("BUCKET", "music") for word in reingest[4:]])
    assert write_reingest_manifest(S3Storage(s3), options.source, options.archive, str(manifest)) == 4
    options.command(options)
    content = json.loads(s3.get_object(Bucket="music", Key="reingest.json")["Body"].read())
    assert content["files"] == json.loads(manifest.read_text("utf-8"))["files"]
    for number, entry in enumerate(content["files"]):
        path = manifest.parent / "archived" / f"{number}.csv"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(s3.get_object(Bucket="music", Key=entry["path"].removeprefix("s3://music/"))["Body"].read())
        entry["path"] = str(path)
    manifest.write_text(json.dumps(content), "utf-8")
    place.tell([word.replace("s3://BUCKET/reingest.json", str(manifest)) for word in run])
    place.tell(delivery)
    assert differences(place.application.kpis(), kpis) == []
    assert place.items() == good
    files = {file["name"]: file["outcome"] for file in place.application.result()["files"]}
    assert files == dict.fromkeys([*done, "streams/tü sday.csv"], "accepted")
