"""Staged and KPI tables in the Glue Data Catalog: made, and changed where the lake's tables have changed.

Athena, and Spark with Glue as its metastore, read them as Delta; Redshift Spectrum by manifests, in a database of its
own. What others noted at a table there is kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import types as T

from kpi_common.aws import client_config, error_code, new_client, plain_aws_errors
from kpi_common.conf_files import load_toml
from kpi_common.contracts import Dataset
from kpi_common.errors import AwsError
from kpi_common.files import is_s3, join, storage_for
from kpi_common.log import log
from spark_app.config.settings import Settings
from spark_app.errors import AppError, in_one_line
from spark_app.kpis import all_kpis
from spark_app.lake.delta_tables import MANIFESTS, Table
from spark_app.run.context import Context

if TYPE_CHECKING:
    from mypy_boto3_glue import GlueClient

_DELTA = {"EXTERNAL": "TRUE", "classification": "delta", "spark.sql.sources.provider": "delta"}
_BY_MANIFEST = {"EXTERNAL": "TRUE", "classification": "parquet"}
_SYMLINKS = {
    "InputFormat": "org.apache.hadoop.hive.ql.io.SymlinkTextInputFormat",
    "OutputFormat": "org.apache.hadoop.hive.ql.io.HiveIgnoreKeyTextOutputFormat",
    "SerdeInfo": {"SerializationLibrary": "org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe"},
}
_PARTITION = "listen_date"
_COMPARED = ("Description", "PartitionKeys", "TableType")
_MADE_AT_ONCE, _DELETED_AT_ONCE = 100, 25  # partitions, by Glue's limits


def catalogues(settings: Settings) -> dict[str, bool]:
    """Return the databases that the settings name, and whether tables stand there by manifest."""
    found = {settings.glue_database: False, settings.glue_spectrum_database: True}
    return {database: by_manifest for database, by_manifest in found.items() if database}


def register_tables(context: Context) -> None:
    """Bring the databases that the settings name in line with the lake; a failure is a warning of the run, not its end.

    By then everything is published and exported, and the next run with new files tries again.
    """
    tables = {f"staged_{dataset}": context.lake.staged(dataset) for dataset in Dataset}
    tables |= {kpi.name: context.lake.kpi(kpi.name) for kpi in all_kpis()}
    tables = {name: table for name, table in tables.items() if table.version() >= 0}
    for database, by_manifest in catalogues(context.settings).items():
        try:
            glue: GlueClient = new_client("glue", config=client_config(attempts=3))
            with plain_aws_errors(f"Glue database {database}"):
                _ensure_database(glue, database)
                register = _register_by_manifest if by_manifest else _register
                changed = [name for name, table in tables.items() if register(context, glue, database, name, table)]
        except (AppError, Py4JJavaError, PySparkException) as error:
            context.result.warn(f"the tables are not registered in the Glue Data Catalog: {in_one_line(error)}")
        else:
            log("glue catalogue", database=database, changed=changed)


def _register(context: Context, glue: GlueClient, database: str, name: str, table: Table) -> bool:
    """Make or change a table that is read as Delta; return whether that was needed."""
    wanted = _definition(context, name, table)
    path = {"serialization.format": "1", "path": wanted["StorageDescriptor"]["Location"]}
    wanted["StorageDescriptor"]["SerdeInfo"] = {"Parameters": path}
    return _put(context, glue, database, wanted | {"Parameters": _DELTA}) is True


def _register_by_manifest(context: Context, glue: GlueClient, database: str, name: str, table: Table) -> bool:
    """Make or change a table that is read by manifests, and its partitions; return whether that was needed."""
    table.keep_manifests(context.spark)
    wanted = _definition(context, name, table)
    place = f"{wanted['StorageDescriptor']['Location']}/{MANIFESTS}"
    wanted["StorageDescriptor"] |= {"Location": place, **_SYMLINKS}
    changed = _put(context, glue, database, wanted | {"Parameters": _BY_MANIFEST})
    if changed is None or not wanted["PartitionKeys"]:
        return bool(changed)
    return _put_partitions(glue, database, wanted, table) or changed


def _put_partitions(glue: GlueClient, database: str, wanted: dict[str, Any], table: Table) -> bool:
    """Bring a table's partitions in line with its manifests; return whether that was needed."""
    folder, storage = f"{_PARTITION}=", wanted["StorageDescriptor"]
    files = storage_for(table.uri).list_files(join(table.uri, MANIFESTS))
    dates = {f.relative.partition("/")[0].removeprefix(folder) for f in files if f.relative.startswith(folder)}
    named: Any = {"DatabaseName": database, "TableName": wanted["Name"]}
    pages = glue.get_paginator("get_partitions").paginate(**named, ExcludeColumnSchema=True)
    present = {partition["Values"][0] for page in pages for partition in page["Partitions"]}
    new: list[Any] = [
        {"Values": [date], "StorageDescriptor": storage | {"Location": f"{storage['Location']}/{folder}{date}"}}
        for date in sorted(dates - present)
    ]
    gone: list[Any] = [{"Values": [date]} for date in sorted(present - dates)]
    for start in range(0, len(new), _MADE_AT_ONCE):
        _check(named, glue.batch_create_partition(**named, PartitionInputList=new[start : start + _MADE_AT_ONCE]))
    for start in range(0, len(gone), _DELETED_AT_ONCE):
        _check(named, glue.batch_delete_partition(**named, PartitionsToDelete=gone[start : start + _DELETED_AT_ONCE]))
    return bool(new or gone)


def _check(named: dict[str, str], answer: Any) -> None:
    if answer.get("Errors"):
        raise AwsError(f"Glue, partitions of {'.'.join(named.values())}: {answer['Errors'][0].get('ErrorDetail')}")


def _definition(context: Context, name: str, table: Table) -> dict[str, Any]:
    """Describe what is the same for all engines as `CreateTable` takes it (its `TableInput`)."""
    comments = load_toml("glue/comments.toml")
    frame = table.read(context.spark)
    location = f"s3://{table.uri.partition('://')[2]}" if is_s3(table.uri) else f"file://{table.uri}"
    columns = {field.name: _column(field, comments["columns"]) for field in frame.schema.fields}
    return {
        "Name": name,
        "Description": comments["tables"].get(name, ""),
        "TableType": "EXTERNAL_TABLE",
        "PartitionKeys": [columns.pop(_PARTITION)] if _PARTITION in columns else [],
        "StorageDescriptor": {"Columns": list(columns.values()), "Location": location},
    }


def _column(field: T.StructField, comments: dict[str, str]) -> dict[str, str]:
    column = {"Name": field.name, "Type": field.dataType.simpleString()}
    return column | ({"Comment": comments[field.name]} if field.name in comments else {})


def _ensure_database(glue: GlueClient, database: str) -> None:
    try:
        glue.get_database(Name=database)
    except ClientError as error:
        if error_code(error) != "EntityNotFoundException":
            raise
        glue.create_database(DatabaseInput={"Name": database, "Description": "Music streaming KPIs"})


def _put(context: Context, glue: GlueClient, database: str, wanted: dict[str, Any]) -> bool | None:
    """Make or change one table; return whether that was needed, None where one of this name lies elsewhere."""
    try:
        found: Any = glue.get_table(DatabaseName=database, Name=wanted["Name"])["Table"]
    except ClientError as error:
        if error_code(error) != "EntityNotFoundException":
            raise
        glue.create_table(DatabaseName=database, TableInput=wanted)  # type: ignore[arg-type]
        return True
    storage, parameters = found.get("StorageDescriptor", {}), found.get("Parameters", {})
    there, ours = storage.get("Location", ""), wanted["StorageDescriptor"]
    if there.rstrip("/") != ours["Location"]:
        context.result.warn(
            f"Glue database {database}: the table {wanted['Name']} lies at {there}, not at {ours['Location']}, and was "
            "left as it is: name another glue_database, or drop that table"
        )
        return None
    same = all(found.get(name) == wanted[name] for name in _COMPARED) and storage.get("Columns") == ours["Columns"]
    if same and parameters.items() >= wanted["Parameters"].items():
        return False
    wanted = wanted | {"Parameters": parameters | wanted["Parameters"], "StorageDescriptor": storage | ours}
    glue.update_table(DatabaseName=database, TableInput=wanted)  # type: ignore[arg-type]
    return True
