"""What the lake offers to SQL: the ready queries of docs/queries.md, and the tables in the Glue Data Catalog (moto)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from typing import Any

import boto3
import pytest
from deltalake import DeltaTable, QueryBuilder
from moto.server import ThreadedMotoServer
from pyspark.sql import SparkSession

from lake_reader.duckdb_views import connect
from spark_app.publish.glue_catalogue import register_tables
from spark_app.run.context import Context
from tests.integration.application import Application, NewFile
from tests.integration.bad_files import HEADERS, MODIFIED, rows
from tests.unit.spark_app.builders import a_context
from tools.toolchain import ROOT

pytestmark = [pytest.mark.integration, pytest.mark.long]
PAGE = (ROOT / "docs" / "queries.md").read_text("utf-8")
DATABASE, BY_MANIFEST = "music_test", "music_by_manifest"
DAY = "2024-06-24"
TABLES = {
    **{f"staged_{name}": f"staged/{name}" for name in ("songs", "streams", "users")},
    **{
        name: f"kpis/{name}"
        for name in (
            "daily_country",
            "daily_genre",
            "hourly",
            "hourly_top_albums",
            "hourly_top_artists",
            "top_genres",
            "top_songs",
        )
    },
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def glue() -> Iterator[Any]:
    """A client of moto's Glue; the environment names it too."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        keys = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_REGION": "eu-central-1"}
        for name, value in {**keys, "AWS_ENDPOINT_URL_GLUE": f"http://{host}:{port}"}.items():
            patch.setenv(name, value)
        yield boto3.client("glue", region_name="eu-central-1")
    server.stop()


@pytest.fixture(scope="module")
def application(spark: SparkSession, glue: Any, tmp_path_factory: pytest.TempPathFactory) -> Application:  # noqa: ARG001
    """A lake with one day: two listens counted, one waiting; its tables are in the catalogue."""
    directory = tmp_path_factory.mktemp("queries")
    databases = {"glue_database": DATABASE, "glue_spectrum_database": BY_MANIFEST}
    application = Application(spark, directory / "input", directory / "lake", databases)
    put(application, "songs/a.csv", "1,A,Ann,Alpha,50,1000,pop")
    put(application, "users/a.csv", "1,Ann,2024-01-01")
    listens = [f"{user},A,{DAY} 1{user}:00:00" for user in range(8)]
    put(application, "streams/a.csv", *listens, f"1,gone,{DAY} 12:00:00")
    assert application.run() == 0
    return application


def put(application: Application, name: str, *records: str) -> None:
    content = rows(HEADERS[name.partition("/")[0]], list(records))
    NewFile(name, content, MODIFIED).write(application.input)


def catalogue(glue: Any) -> dict[str, Any]:
    return {table["Name"]: table for table in glue.get_tables(DatabaseName=DATABASE)["TableList"]}


def test_ready_queries_give_the_same_in_each_engine(application: Application, spark: SparkSession) -> None:
    queries = blocks("sql")
    assert len(queries) == 7
    duckdb, engine = connect(str(application.lake)), QueryBuilder()
    for name, path in TABLES.items():
        engine.register(name, DeltaTable(str(application.lake / path)))
        spark.read.format("delta").load(str(application.lake / path)).createOrReplaceTempView(name)
    for query in queries:
        expected = [tuple(map(plain, row)) for row in spark.sql(query).collect()]
        assert [tuple(map(plain, row)) for row in duckdb.sql(query).fetchall()] == expected, query
        columns = [column.to_pylist() for column in engine.execute(query).read_all().columns]
        assert [tuple(map(plain, row)) for row in zip(*columns, strict=True)] == expected, query
    days, waiting, differing = queries[1], queries[5], queries[6]
    assert duckdb.sql(days).fetchall() == [(date(2024, 6, 24), 8, None)]
    assert duckdb.sql(waiting).fetchall() == [(3, 1)]
    assert duckdb.sql(differing).fetchall() == []


def plain(value: Any) -> Any:
    """A value as all engines have it: Spark's times have no zone, and engines divide to other types."""
    if hasattr(value, "tzinfo"):
        return value.replace(tzinfo=None)
    return value if isinstance(value, int | str | date | None) else round(float(value), 6)


def test_python_examples_run(application: Application) -> None:
    duckdb, deltalake = (block.replace(".build/lake", str(application.lake)) for block in blocks("python"))
    namespace: dict[str, Any] = {}
    exec(duckdb, namespace)  # noqa: S102 (the point of this test)
    assert namespace["by_genre"] == [("pop", 8)]
    exec(deltalake, namespace)  # noqa: S102
    assert namespace["total"]["listens"].to_pylist() == [8]


def test_the_notebook_runs_and_shows_how_kpis_come_about(application: Application) -> None:
    environment = os.environ | {"LAKE": str(application.lake), "MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "docs" / "exploration.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    compared = re.findall(r"^kpis/(\w+): \d+ rows, 0 differ$", done.stdout, re.MULTILINE)
    assert compared == ["daily_genre", "top_genres", "top_songs", "hourly"]


def test_tables_are_registered_with_columns_comments_partition_and_location(
    application: Application, glue: Any
) -> None:
    tables = catalogue(glue)
    assert tables.keys() == TABLES.keys()
    for name, path in TABLES.items():
        described = DeltaTable(str(application.lake / path))
        columns = [column["Name"] for column in tables[name]["StorageDescriptor"]["Columns"]]
        keys = [column["Name"] for column in tables[name]["PartitionKeys"]]
        assert keys == described.metadata().partition_columns
        assert sorted(columns + keys) == sorted(field.name for field in described.schema().fields)
        assert tables[name]["StorageDescriptor"]["Location"] == f"file://{application.lake / path}"
        assert tables[name]["Parameters"]["spark.sql.sources.provider"] == "delta"
        assert tables[name]["Description"]
    genre = {column["Name"]: column for column in tables["daily_genre"]["StorageDescriptor"]["Columns"]}
    assert genre["popularity_index"] == {
        "Name": "popularity_index",
        "Type": "decimal(18,2)",
        "Comment": "Sum of popularity over listens / 100",
    }


def test_tables_are_registered_by_manifest_with_their_partitions(application: Application, glue: Any) -> None:
    tables = {table["Name"]: table for table in glue.get_tables(DatabaseName=BY_MANIFEST)["TableList"]}
    assert tables.keys() == TABLES.keys()
    for name, path in TABLES.items():
        place = f"{application.lake / path}/_symlink_format_manifest"
        storage = tables[name]["StorageDescriptor"]
        assert storage["Location"] == f"file://{place}"
        assert storage["InputFormat"] == "org.apache.hadoop.hive.ql.io.SymlinkTextInputFormat"
        assert "spark.sql.sources.provider" not in tables[name]["Parameters"]
        found = glue.get_partitions(DatabaseName=BY_MANIFEST, TableName=name)["Partitions"]
        days = {part["Values"][0]: part["StorageDescriptor"]["Location"] for part in found}
        table = DeltaTable(str(application.lake / path))  # the songs have no albums: that table has no day
        dates = [part["listen_date"] for part in table.partitions()] if table.metadata().partition_columns else []
        assert days == {day: f"file://{place}/listen_date={day}" for day in dates}, name
    assert {part["listen_date"] for part in DeltaTable(str(application.lake / "kpis/hourly")).partitions()} == {DAY}
    glue.create_partition(
        DatabaseName=BY_MANIFEST, TableName="hourly", PartitionInput={"Values": ["2020-01-01"], "StorageDescriptor": {}}
    )
    register_tables(context_of(application))
    (left,) = glue.get_partitions(DatabaseName=BY_MANIFEST, TableName="hourly")["Partitions"]
    assert left["Values"] == [DAY]


def test_a_changed_table_is_evolved_and_others_are_left(application: Application, glue: Any) -> None:
    """Somebody dropped a column, put a note of their own, and took a name for another table."""
    for name, change in (("hourly", drop_column), ("top_songs", move_away)):
        table = catalogue(glue)[name]
        kept = {k: table[k] for k in ("Name", "StorageDescriptor", "PartitionKeys", "TableType", "Parameters")}
        glue.update_table(DatabaseName=DATABASE, TableInput=change(kept))
    context = context_of(application)
    register_tables(context)
    (warning,) = context.result.warnings
    assert "top_songs lies at s3://other/" in warning
    tables = catalogue(glue)
    assert tables["hourly"]["Parameters"]["owner"] == "Ann"
    assert "listen_count" in [column["Name"] for column in tables["hourly"]["StorageDescriptor"]["Columns"]]
    assert tables["top_songs"]["StorageDescriptor"]["Location"] == "s3://other/"
    versions = {
        name: len(glue.get_table_versions(DatabaseName=DATABASE, TableName=name)["TableVersions"]) for name in tables
    }
    assert versions == dict.fromkeys(TABLES, 1) | {"hourly": 3, "top_songs": 2}


def context_of(application: Application) -> Context:
    databases = (f"glue_database={DATABASE}", f"glue_spectrum_database={BY_MANIFEST}")
    return a_context(application.lake, lambda: application.spark, *databases)


def drop_column(table: dict[str, Any]) -> dict[str, Any]:
    table["StorageDescriptor"]["Columns"].pop(1)
    return table | {"Parameters": table["Parameters"] | {"owner": "Ann"}}


def move_away(table: dict[str, Any]) -> dict[str, Any]:
    return table | {"StorageDescriptor": table["StorageDescriptor"] | {"Location": "s3://other/"}}


def test_a_catalogue_out_of_reach_is_a_warning(application: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_GLUE", "http://127.0.0.1:9")
    context = context_of(application)
    register_tables(context)
    warnings = context.result.warnings
    assert len(warnings) == 2
    assert "not registered in the Glue Data Catalog: Glue database music_test: can't be reached" in warnings[0]


@pytest.mark.usefixtures("glue")
def test_spark_failing_for_the_catalogue_is_a_warning_too(application: Application) -> None:
    """Manifests can't be written, as a file has the name of their folder; the next run tries again."""
    table = application.lake / "kpis" / "daily_genre"
    property_name = "delta.compatibility.symlinkFormatManifest.enabled"
    application.spark.sql(f"ALTER TABLE delta.`{table}` UNSET TBLPROPERTIES ('{property_name}')")
    manifests = table / "_symlink_format_manifest"
    shutil.rmtree(manifests)
    manifests.write_text("in the way")
    context = context_of(application)
    register_tables(context)
    failed = "the tables are not registered in the Glue Data Catalog: "
    assert [text.startswith(failed) for text in context.result.warnings].count(True) == 1
    manifests.unlink()
    again = context_of(application)
    register_tables(again)
    assert not any(text.startswith(failed) for text in again.result.warnings)
    assert manifests.is_dir()
