"""Songs and users from a database: a real PostgreSQL, over TLS, as it is, as it changes, and as it fails."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer
from pyspark.sql import SparkSession

from kpi_common.contracts import Dataset
from spark_app.cli import main
from spark_app.config.secrets import read_secret
from spark_app.errors import UsageError
from spark_app.ingest.database import DatabaseError, Source, _options, sources, with_databases
from spark_app.ingest.discovery import Listing
from spark_app.run.context import Context
from tests.integration.application import Application, NewFile
from tests.integration.bad_files import HEADERS, MODIFIED, rows
from tests.support.postgres import PASSWORD, USER, Gate, Postgres, make_certificate
from tests.unit.spark_app.builders import a_context
from tools.spark_submit import submit_command, submit_environment

pytestmark = pytest.mark.integration
Certificate = tuple[Path, Path]
Read = Callable[..., str]


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


@pytest.fixture(autouse=True)
def tables(postgres: Postgres) -> None:
    """Two songs, one with all that CSV finds hard, and a user."""
    postgres.sql(
        """
        DROP TABLE IF EXISTS songs; DROP TABLE IF EXISTS users;
        CREATE TABLE songs (id int, track_id text, artists text[], album_name text, track_name text, popularity int,
            duration_ms bigint, explicit boolean, track_genre varchar(100), updated_at timestamptz DEFAULT now());
        INSERT INTO songs VALUES
            (1, 'A', '{Ann,Bob}', 'First', 'Alpha', 50, 1000, false, 'pop'),
            (2, 'B', '{Cem}', NULL, E' "Beta", \\\\ the\\nSecond ', NULL, 2000, true, 'rock');
        CREATE TABLE users (user_id bigint, user_name text, user_age smallint, user_country text, created_at timestamp);
        INSERT INTO users VALUES (1, 'Ann', 30, 'DE', '2024-01-01');
        """
    )


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"), "localhost")


@pytest.fixture
def secret(tmp_path: Path) -> str:
    """A file with what Secrets Manager has, in RDS's form."""
    path = tmp_path / "secret.json"
    content = {"engine": "postgres", "host": "db", "username": USER, "password": PASSWORD, "port": 5432}
    path.write_text(json.dumps(content), "utf-8")
    return str(path)


@pytest.fixture
def context(spark: SparkSession, tmp_path: Path, secret: str) -> Callable[..., Context]:
    def make(*settings: str) -> Context:
        return a_context(tmp_path / "lake", lambda: spark, f"database_secret={secret}", *settings)

    return make


def read(context: Context) -> str:
    """The CSV that the only source becomes."""
    (file,) = with_databases(context, Listing(())).files
    return gzip.decompress(Path(file.uri).read_bytes()).decode()


@pytest.mark.long
def test_a_run_takes_songs_and_users_as_files(
    postgres: Postgres, certificate: Certificate, spark: SparkSession, tmp_path: Path, secret: str
) -> None:
    with Gate(postgres.socket, certificate) as gate:
        application = Application(spark, tmp_path / "input", tmp_path / "lake", {"database_secret": secret})
        NewFile("streams/.keep", b"", MODIFIED).write(application.input)  # listens would cost minutes here
        given = ["--songs", gate.url(), "--users", gate.url()]
        assert application.run(*given) == 0
        name = f"songs/jdbc/localhost_{gate.port}/postgres/songs.csv.gz"
        songs = next(file for file in application.result()["files"] if file["name"] == name)
        assert (songs["outcome"], songs["rows"], songs["valid"]) == ("accepted", 2, 2)
        assert staged(application) == [("A", "Ann;Bob", "Alpha", 50), ("B", "Cem", '"Beta", \\ the\nSecond', 0)]
        assert list(application.rows("staged/users", ("user_country", "age_band"))) == [("DE", "25-34")]

        assert application.run(*given) == 0
        assert application.result()["status"] == "nothing_to_do"

        postgres.sql("UPDATE songs SET track_name = 'Alpha 2' WHERE id = 1; DELETE FROM songs WHERE id = 2")
        assert application.run(*given) == 0
        assert staged(application) == [("A", "Ann;Bob", "Alpha 2", 50)]

        postgres.sql("ALTER TABLE songs DROP COLUMN duration_ms")
        assert application.run(*given) == 3
        (rejected,) = (file for file in application.result()["files"] if file["name"] == name)
        assert (rejected["outcome"], rejected["reason"]) == ("rejected", "missing_column")
        assert "duration_ms" in rejected["message"]
        assert staged(application) == [("A", "Ann;Bob", "Alpha 2", 50)]


def staged(application: Application) -> list[tuple[object, ...]]:
    return sorted(application.rows("staged/songs", ("track_id", "artists", "track_name", "popularity")), key=repr)


def test_a_large_table_is_read_in_parts_and_again_if_it_changes(
    postgres: Postgres, certificate: Certificate, context: Callable[..., Context]
) -> None:
    postgres.sql("INSERT INTO users SELECT n, 'u' || n, 20, 'FR', NULL FROM generate_series(2, 2500) AS n")
    expected = "".join(f"{n},20,FR,\n" for n in range(2, 2501))
    settings = ("users_table=public.users", "database_rows_per_read=1000")
    with Gate(postgres.socket, certificate) as gate:
        found = read(context(f"users_source={gate.url()}", *settings))
    head = "user_id,user_age,user_country,created_at\n1,30,DE,2024-01-01 00:00:00\n"
    assert found == head + expected
    assert gate.connections == 9  # two for its columns, two for each look at its extent, and three parts

    def change(number: int) -> None:
        if number == 6:
            postgres.sql("DELETE FROM users WHERE user_id = 2")

    with Gate(postgres.socket, certificate, on_connection=change) as gate:
        again = read(context(f"users_source={gate.url()}", *settings))
    assert "\n2,20," not in again
    assert again.count("\n") == 2500
    grow = "INSERT INTO users VALUES (0)"
    with (
        Gate(postgres.socket, certificate, on_connection=lambda _: postgres.sql(grow)) as gate,
        pytest.raises(DatabaseError, match=r"public.users changed each of 3 times while it was read"),
    ):
        read(context(f"users_source={gate.url()}", *settings))


def test_with_updated_at_a_table_is_read_when_it_changed(
    postgres: Postgres, certificate: Certificate, context: Callable[..., Context]
) -> None:
    with Gate(postgres.socket, certificate) as gate:
        made = context(f"songs_source={gate.url()}", "database_updated_at=updated_at")
        first, needed = read(made), gate.connections
        postgres.sql("UPDATE songs SET popularity = 51 WHERE id = 1")
        assert read(made) == first
        assert gate.connections - needed < needed
        postgres.sql("UPDATE songs SET updated_at = updated_at - interval '1 hour' WHERE id = 1")
        assert ",51," in read(made)  # although no time is newer than those before
        with pytest.raises(DatabaseError, match="songs has no column changed"):
            read(context(f"songs_source={gate.url()}", "database_updated_at=changed"))


def test_a_server_that_dies_in_the_middle_leaves_what_was_there(
    postgres: Postgres, certificate: Certificate, context: Callable[..., Context]
) -> None:
    with Gate(postgres.socket, certificate) as gate:
        listing = with_databases(context(f"songs_source={gate.url()}"), Listing(()))
    before = Path(listing.files[0].uri).read_bytes()
    postgres.sql(
        "INSERT INTO songs SELECT n, 't' || n, '{x}', 'a', 'n', 1, 1, true, 'g' FROM generate_series(3, 9999) n"
    )
    with Gate(postgres.socket, certificate, cut_after=100_000) as gate:
        gate_url = gate.url()
        with pytest.raises(DatabaseError, match=r"songs: .*I/O error"):
            with_databases(context(f"songs_source={gate_url}"), Listing(()))
    assert Path(listing.files[0].uri).read_bytes() == before


def test_tls_is_on_unless_the_url_says_otherwise(
    postgres: Postgres, certificate: Certificate, context: Callable[..., Context], tmp_path: Path
) -> None:
    public, other = certificate[0], make_certificate(tmp_path, "elsewhere")[0]
    with Gate(postgres.socket, certificate) as gate:
        read(context(f"songs_source={gate.url()}", f"database_ca_file={public}"))
        with pytest.raises(DatabaseError, match="songs: "):
            read(context(f"songs_source={gate.url()}", f"database_ca_file={other}"))
        with pytest.raises(DatabaseError, match="hostname"):
            read(context(f"songs_source={gate.url(host='127.0.0.1')}", f"database_ca_file={public}"))
    with Gate(postgres.socket, None) as plain:
        with pytest.raises(DatabaseError, match="does not support SSL"):
            read(context(f"songs_source={plain.url()}"))
        read(context(f"songs_source={plain.url('?sslmode=disable')}"))


def test_credentials_come_from_secrets_manager(
    postgres: Postgres, certificate: Certificate, spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "any")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", f"http://{host}:{port}")
    secrets = boto3.client("secretsmanager", region_name="eu-central-1")
    with Gate(postgres.socket, certificate) as gate:
        made = a_context(tmp_path / "lake", lambda: spark, "database_secret=rds/music", f"users_source={gate.url()}")
        with pytest.raises(Exception, match=r"secret rds/music \(database_secret\): ResourceNotFound"):
            read(made)
        secrets.create_secret(Name="rds/music", SecretString=json.dumps({"username": USER, "password": PASSWORD}))
        assert read(made).splitlines()[1] == "1,30,DE,2024-01-01 00:00:00"
        secrets.update_secret(SecretId="rds/music", SecretString=f"password={PASSWORD}")
        with pytest.raises(UsageError, match='expected JSON with "username" and "password"') as caught:
            read(made)
        assert PASSWORD not in str(caught.value)
    secrets.create_secret(Name="bytes", SecretBinary=b"\x00\xff")
    assert read_secret("forget_key", "bytes") == b"\x00\xff"
    server.stop()


def test_a_wrong_password_is_said_without_it(
    postgres: Postgres,
    certificate: Certificate,
    spark: SparkSession,
    tmp_path: Path,
    secret: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    Path(secret).write_text(json.dumps({"username": USER, "password": "Wr0ng-one"}), "utf-8")
    application = Application(spark, tmp_path / "input", tmp_path / "lake", {"database_secret": secret})
    NewFile("streams/a.csv", rows(HEADERS["streams"], []), MODIFIED).write(application.input)
    with Gate(postgres.socket, certificate) as gate:
        assert application.run("--songs", gate.url()) == 1
    error = application.result()["error"]
    assert error["code"] == "database"
    assert f'password authentication failed for user "{USER}"' in error["message"]
    captured = capfd.readouterr()
    assert "Wr0ng-one" not in captured.out + captured.err + json.dumps(application.result())


def test_an_iam_token_is_signed_for_host_port_and_user(
    monkeypatch: pytest.MonkeyPatch, context: Callable[..., Context]
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "any")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    settings = context("database_secret=", "database_iam_user=etl").settings
    options = _options(Source(Dataset.SONGS, "jdbc:mysql://db.example/music", "songs"), settings)
    assert options["user"] == "etl"
    assert options["password"].startswith("db.example:3306/?Action=connect&DBUser=etl&")
    assert "X-Amz-Signature=" in options["password"]
    assert options["url"] == "jdbc:mysql://db.example/music?permitMysqlScheme"
    assert options["sslMode"] == "trust"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["songs_source=jdbc:postgresql://h/d"], "songs_source is set: set one of database_secret"),
        (
            ["users_source=jdbc:mysql://h/d", "database_secret=s", "database_iam_user=u"],
            "users_source is set: set one of database_secret",
        ),
        (["songs_source=jdbc:oracle://h/d", "database_secret=s"], "expected jdbc:postgresql://"),
        (["songs_source=jdbc:mysql://h/d?user=a", "database_secret=s"], "no user, password or token in a URL"),
        (["songs_source=jdbc:mysql://me:it@h/d", "database_secret=s"], "no user, password or token in a URL"),
        (["songs_source=jdbc:mysql://h/d", "songs_table=a;b", "database_secret=s"], "`songs_table` is 'a;b'"),
    ],
)
def test_settings_that_are_not_whole_are_refused(
    settings: list[str], message: str, tmp_path: Path, spark: SparkSession, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [part for setting in settings for part in ("--set", setting)]
    assert main(["run", "--input", str(tmp_path), "--lake", str(tmp_path / "lake"), *given], spark=spark) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "lake").exists()


def test_no_source_is_no_work(context: Callable[..., Context]) -> None:
    assert sources(context("database_secret=").settings) == []


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_million_songs_and_no_trace_of_the_password(
    postgres: Postgres, certificate: Certificate, tmp_path: Path, secret: str, figure: Callable[[str], None]
) -> None:
    """Under spark-submit as it is, with Spark's event log on."""
    postgres.sql(
        "INSERT INTO songs SELECT n, 't' || n, array['artist ' || n % 5000], 'album', 'song ' || n, n % 100, 200000, "
        "false, 'genre ' || n % 100 FROM generate_series(3, 1000000) AS n"
    )
    events = tmp_path / "events"
    events.mkdir()
    NewFile("streams/a.csv", rows(HEADERS["streams"], ["1,t5,2024-06-24 10:00:00"]), MODIFIED).write(tmp_path / "in")
    with Gate(postgres.socket, certificate) as gate:
        arguments = ["run", "--input", str(tmp_path / "in"), "--lake", str(tmp_path / "lake"), "--log-format", "json"]
        arguments += ["--songs", gate.url(), "--users", gate.url(), "--set", f"database_secret={secret}"]
        command = submit_command(arguments, ["delta", "jdbc"])
        command[1:1] = ["--conf", "spark.eventLog.enabled=true", "--conf", f"spark.eventLog.dir=file://{events}"]
        began = time.monotonic()
        done = subprocess.run(command, env=submit_environment(os.environ), capture_output=True, text=True, check=False)
    figure(f"a million songs from PostgreSQL: {time.monotonic() - began:.0f} s for the whole run")
    assert done.returncode == 0, done.stderr[-3000:]
    (result,) = (json.loads(path.read_text()) for path in (tmp_path / "lake" / "runs").glob("*/result.json"))
    assert result["totals_by_dataset"]["songs"]["valid"] == 1_000_000
    assert next(step for step in result["steps"] if step["name"] == "read databases")
    (log,) = events.iterdir()
    everything = [done.stdout, done.stderr, log.read_text("utf-8"), json.dumps(result)]
    everything += [p.read_text("utf-8") for p in (tmp_path / "lake").rglob("*.json")]
    assert any("songs" in text for text in everything)
    assert not any(PASSWORD in text or PASSWORD.encode("unicode_escape").decode() in text for text in everything)
