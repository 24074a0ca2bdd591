"""Loading Redshift: the statements on a real PostgreSQL, COPY's files in moto's S3, the Data API over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from kpi_common.aws import shared_s3_client
from kpi_common.errors import UsageError
from kpi_common.files import open_lake
from kpi_pipeline.cli import main
from kpi_pipeline.errors import ExportError, OtherLakeError, RedshiftError
from kpi_pipeline.export.reader import Export, read_export
from kpi_pipeline.redshift.data_api import DataApi
from kpi_pipeline.redshift.load import load, load_statements, prepare
from kpi_pipeline.redshift.tables import load_tables
from kpi_pipeline.settings import RedshiftSettings
from tests.integration.delivery_helpers import day
from tests.support.export_files import DAILY, Items, write_export
from tests.support.moto_server import moto_server
from tests.support.postgres import Postgres
from tests.support.redshift import DataApiServer, data_api, run_in_postgres

pytestmark = pytest.mark.integration
BUCKET, SCHEMA = "lakes", "music"
GIVEN = {
    "redshift_workgroup": "kpis",
    "redshift_database": "dev",
    "redshift_schema": SCHEMA,
    "redshift_copy_role": "arn:aws:iam::123456789012:role/copy",
}
SETTINGS = RedshiftSettings(**GIVEN)
COMMAND = ("--workgroup", "kpis", "--database", "dev", "--schema", SCHEMA)
FIRST, SECOND, THIRD = "2024-06-01", "2024-06-02", "2024-06-03"


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        server.sql("CREATE DOMAIN super AS jsonb")
        yield server


@pytest.fixture(scope="module")
def server(postgres: Postgres) -> Iterator[DataApiServer]:
    with (
        moto_server() as s3,
        data_api(run_in_postgres(postgres.script)) as redshift,
        pytest.MonkeyPatch.context() as env,
    ):
        keys = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_REGION": "eu-central-1"}
        for name, value in {**keys, "AWS_ENDPOINT_URL_S3": s3, "AWS_ENDPOINT_URL_REDSHIFT_DATA": redshift.url}.items():
            env.setenv(name, value)
        env.setattr("kpi_pipeline.redshift.data_api.FIRST_WAIT_S", 0.01)
        shared_s3_client.cache_clear()
        place: Any = {"LocationConstraint": "eu-central-1"}
        shared_s3_client().create_bucket(Bucket=BUCKET, CreateBucketConfiguration=place)
        yield redshift
        shared_s3_client.cache_clear()


class Lake:
    """A lake in S3, to which exports are written."""

    def __init__(self, folder: Path, postgres: Postgres) -> None:
        self.folder, self.uri, self.sql = folder, f"s3://{BUCKET}/{folder.name}", postgres.sql
        self.opened = open_lake(self.uri)

    def export(
        self, number: int, days: Mapping[str, Items], changes_since: int | None = 0, lake_id: str = "l1"
    ) -> Export:
        run_id = write_export(self.folder, number, days, lake_id=lake_id, changes_since=changes_since)
        for path in (path for path in self.folder.rglob("*") if path.is_file()):
            self.opened.write(str(path.relative_to(self.folder)), path.read_bytes())
        return read_export(self.opened, run_id)

    def rows(self, query: str) -> list[Any]:
        """Rows of a query, by column."""
        text = self.sql(f"\\pset format unaligned\n\\t on\nSELECT jsonb_agg(found) FROM ({query}) AS found")
        return json.loads(text.splitlines()[-1] or "null", parse_float=Decimal) or []

    def genres(self) -> dict[str, list[str]]:
        """Genres by day."""
        days: dict[str, list[str]] = {}
        for row in self.rows(f"SELECT * FROM {SCHEMA}.daily_genre ORDER BY 1, 2"):
            days.setdefault(row["listen_date"], []).append(row["track_genre"])
        return days

    def sequence(self) -> dict[str, int]:
        rows = self.rows(f"SELECT listen_date, export_seq FROM {SCHEMA}.kpi_days ORDER BY 1")
        return {row["listen_date"]: row["export_seq"] for row in rows}


@pytest.fixture
def lake(server: DataApiServer, postgres: Postgres, tmp_path: Path) -> Lake:
    """An empty one, beside an empty database."""
    server.requests.clear()
    postgres.sql(f"SET client_min_messages = error; DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
    return Lake(tmp_path, postgres)


def test_a_load_has_all_values_exactly_and_changes_nothing_the_second_time(lake: Lake) -> None:
    lake.export(1, {FIRST: day(FIRST), SECOND: {}})
    assert load(lake.opened, SETTINGS) == [1]
    (pop,) = lake.rows(f"SELECT * FROM {SCHEMA}.daily_genre WHERE track_genre = 'pop'")
    assert (pop["listen_date"], pop["listen_count"]) == (FIRST, 10)
    assert pop["avg_track_duration_ms"] == Decimal("201500.125")
    assert pop["most_popular_track_name"] == 'Ça "ira", 東京 🎵'
    assert pop["top_3_song_names"] == [{"S": "a, b"}, {"S": "ñ"}]
    assert pop["popularity_index"] is None
    (hour,) = lake.rows(f"SELECT listen_hour AT TIME ZONE 'UTC' AS hour, listen_count FROM {SCHEMA}.hourly")
    assert hour == {"hour": f"{FIRST}T12:00:00", "listen_count": 10}
    (done,) = lake.rows(f"SELECT * FROM {SCHEMA}.kpi_days WHERE listen_date = '{SECOND}'")
    assert (done["lake_id"], done["export_seq"], done["run_id"]) == ("l1", 1, "run-1")
    before = lake.rows(f"SELECT * FROM {SCHEMA}.daily_genre")
    assert load(lake.opened, SETTINGS) == []
    DataApi(SETTINGS).run(load_statements(lake.opened, read_export(lake.opened, "run-1"), load_tables(), SETTINGS))
    assert lake.rows(f"SELECT * FROM {SCHEMA}.daily_genre") == before


def test_days_of_a_newer_export_replace_and_what_is_gone_goes(lake: Lake) -> None:
    lake.export(1, {FIRST: day(FIRST), SECOND: day(SECOND), THIRD: day(THIRD)})
    load(lake.opened, SETTINGS)
    lake.export(3, {SECOND: day(SECOND, ["pop", "new"], plays=99), THIRD: {}}, changes_since=1)
    assert load(lake.opened, SETTINGS) == [3]
    assert lake.genres() == {FIRST: ["pop", "r-n-b", "sertanejo"], SECOND: ["new", "pop"]}
    assert lake.sequence() == {FIRST: 1, SECOND: 3, THIRD: 3}
    (pop,) = lake.rows(
        f"SELECT listen_count FROM {SCHEMA}.daily_genre WHERE (listen_date, track_genre) = ('{SECOND}', 'pop')"
    )
    assert pop["listen_count"] == 99


def test_a_late_load_of_an_older_export_brings_no_day_back(lake: Lake) -> None:
    """It was prepared before the newer one was there, and runs after it."""
    lake.export(1, {FIRST: day(FIRST), SECOND: day(SECOND)})
    (late,) = prepare(lake.opened, SETTINGS).values()
    lake.export(2, {SECOND: day(SECOND, ["new"])}, changes_since=0)
    (newer,) = (s for number, s in prepare(lake.opened, SETTINGS).items() if number == 2)
    for statements in (newer, late):
        DataApi(SETTINGS).run(statements)
    assert lake.genres() == {FIRST: ["pop", "r-n-b", "sertanejo"], SECOND: ["new"]}
    assert lake.sequence() == {FIRST: 1, SECOND: 2}


def test_exports_that_were_missed_are_loaded_too(lake: Lake) -> None:
    """Two were delivered while Redshift was out of order; the last has only what changed since the second."""
    lake.export(1, {FIRST: day(FIRST)})
    load(lake.opened, SETTINGS)
    lake.export(2, {SECOND: day(SECOND), FIRST: day(FIRST, ["old"])}, changes_since=1)
    lake.export(3, {FIRST: day(FIRST, ["new"])}, changes_since=2)
    assert load(lake.opened, SETTINGS) == [2, 3]
    assert lake.genres() == {FIRST: ["new"], SECOND: ["pop", "r-n-b", "sertanejo"]}


TWICE = [{"date": SECOND, "genre": "pop", "listen_count": number} for number in (1, 2)]
BROKEN = [{"date": SECOND, "genre": "pop", "listen_count": Decimal("1.5")}]


@pytest.mark.parametrize(
    ("items", "told"),
    [(TWICE, "refused the load, nothing was changed: what was copied has a key twice"), (BROKEN, "1.5.*COPY stumbled")],
    ids=["a key twice", "a value of another type"],
)
def test_a_bad_load_is_refused_whole(lake: Lake, items: list[Any], told: str) -> None:
    lake.export(1, {FIRST: day(FIRST), SECOND: day(SECOND)})
    load(lake.opened, SETTINGS)
    before = lake.genres()
    lake.export(2, {FIRST: day(FIRST, ["new"]), SECOND: {DAILY: items}}, changes_since=1)
    with pytest.raises(RedshiftError, match=told):
        load(lake.opened, SETTINGS)
    assert (lake.genres(), lake.sequence()) == (before, {FIRST: 1, SECOND: 1})


def test_rows_that_were_not_copied_are_missed(lake: Lake) -> None:
    export = lake.export(1, {FIRST: day(FIRST)})
    (statements,) = prepare(lake.opened, SETTINGS).values()
    (file,) = (file for file in export.parts[0].files if file.table == DAILY)
    shorter = [sql.replace(f"count(*) <> {file.items} ", f"count(*) <> {file.items + 1} ") for sql in statements]
    with pytest.raises(RedshiftError, match="not the rows of the export"):
        DataApi(SETTINGS).run(shorter)
    assert lake.sequence() == {}


def test_another_lake_is_refused_also_when_it_comes_in_between(lake: Lake) -> None:
    lake.export(1, {FIRST: day(FIRST)})
    (statements,) = prepare(lake.opened, SETTINGS).values()
    lake.sql(f"INSERT INTO {SCHEMA}.kpi_days VALUES ('{THIRD}', 'l2', 1, 'r', NULL, now())")
    with pytest.raises(RedshiftError, match="the days of another lake are in schema music"):
        DataApi(SETTINGS).run(statements)
    with pytest.raises(OtherLakeError, match="schema music has days of the lake l2: name another redshift_schema"):
        load(lake.opened, SETTINGS)
    assert lake.genres() == {}


def test_a_table_of_before_gets_its_new_columns(lake: Lake) -> None:
    lake.export(1, {FIRST: day(FIRST)})
    prepare(lake.opened, SETTINGS)
    lake.sql(f"ALTER TABLE {SCHEMA}.daily_genre DROP COLUMN avg_track_duration_ms, ADD COLUMN note text")
    load(lake.opened, SETTINGS)
    rows = lake.rows(f"SELECT DISTINCT avg_track_duration_ms, note FROM {SCHEMA}.daily_genre")
    assert rows == [{"avg_track_duration_ms": Decimal("201500.125"), "note": None}]


def test_days_that_no_export_has_any_more_are_missed(lake: Lake) -> None:
    """Redshift was set up late, or exports were deleted before it was mended: an export of all days mends it."""
    lake.export(7, {SECOND: day(SECOND)}, changes_since=6)
    with pytest.raises(ExportError, match="as of export 0, and some of what changed after that is in no export any"):
        load(lake.opened, SETTINGS)
    lake.export(8, {FIRST: day(FIRST), SECOND: day(SECOND)}, changes_since=0)
    lake.export(9, {FIRST: day(FIRST, ["new"])}, changes_since=7)
    assert load(lake.opened, SETTINGS) == [8, 9]


def test_tables_that_conf_does_not_know_are_refused(lake: Lake) -> None:
    export = lake.export(1, {FIRST: day(FIRST)})
    with pytest.raises(ExportError, match=r"has the tables \['DailyGenreKPIs'\], which conf/ here hasn't"):
        load_statements(lake.opened, export, load_tables()[1:], SETTINGS)


def test_the_commands_load_and_validate(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    lake.export(1, {FIRST: day(FIRST), SECOND: day(SECOND)})
    where = ("--lake", lake.uri, *COMMAND)
    assert main(["redshift", "validate", *where]) == 1
    assert f"{FIRST}: of export none, but the newest that has it is 1" in capsys.readouterr().out
    assert main(["redshift", "load", *where, "--copy-role", "default"]) == 0
    assert main(["redshift", "load", *where, "--copy-role", "default"]) == 0
    assert main(["redshift", "validate", *where]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out == [
        "export 1 is loaded",
        "nothing to load: Redshift has all days",
        "Redshift is as the exports: 2 days, 8 rows, their sums and keys",
    ]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("DELETE FROM {t} WHERE track_genre = 'pop'", "daily_genre, 2024-06-01: 2 rows, not 3"),
        ("DELETE FROM {t} WHERE track_genre = 'pop'", "daily_genre, 2024-06-01: the key pop is missing"),
        ("UPDATE {t} SET track_genre = 'rock' WHERE track_genre = 'pop'", "2024-06-01: the key rock is too many"),
        (
            "UPDATE {t} SET avg_track_duration_ms = 201500.126 WHERE track_genre = 'pop'",
            "the sum of avg_track_duration_ms is 604500.376, not 604500.375",
        ),
        ("DELETE FROM music.hourly", f"the key {FIRST}T12:00:00Z is missing"),
    ],
)
def test_validation_finds_what_differs(lake: Lake, capsys: pytest.CaptureFixture[str], change: str, told: str) -> None:
    lake.export(1, {FIRST: day(FIRST)})
    load(lake.opened, SETTINGS)
    lake.sql(change.format(t=f"{SCHEMA}.daily_genre"))
    assert main(["redshift", "validate", "--lake", lake.uri, *COMMAND]) == 1
    captured = capsys.readouterr()
    assert told in captured.out
    assert "Redshift differs from the exports" in captured.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--workgroup", "kpis"], "half set; missing: --copy-role"),
        (["--copy-role", "default"], "half set; missing: --workgroup or --cluster"),
        (
            ["--workgroup", "kpis", "--cluster", "c", "--copy-role", "default"],
            "goes with neither --cluster nor --db-user",
        ),
        (["--workgroup", "kpis", "--copy-role", "me"], "--copy-role: String should match pattern"),
    ],
)
def test_a_half_set_command_names_what_is_missing_before_any_work(
    lake: Lake, server: DataApiServer, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    assert main(["redshift", "load", "--lake", lake.uri, "--database", "dev", *arguments]) == 2
    assert told in capsys.readouterr().err
    assert server.requests == []


def test_a_lake_on_a_disk_is_refused(lake: Lake) -> None:
    with pytest.raises(UsageError, match="must be s3://"):
        prepare(open_lake(str(lake.folder)), SETTINGS)


def test_who_asks_is_named_in_each_request(lake: Lake, server: DataApiServer) -> None:
    given = {**GIVEN, "redshift_workgroup": "", "redshift_cluster": "c1", "redshift_db_user": "loader"}
    load(lake.opened, RedshiftSettings(**given))
    (request,) = (request for action, request in server.requests if action == "BatchExecuteStatement")
    assert {name: request.get(name) for name in ("ClusterIdentifier", "DbUser", "Database")} == {
        "ClusterIdentifier": "c1",
        "DbUser": "loader",
        "Database": "dev",
    }
