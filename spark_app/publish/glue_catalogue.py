"""Staged and KPI tables in the Glue Data Catalog: made, and changed where the lake's tables have changed.

Athena, and Spark with Glue as its metastore, read them as Delta. What others noted at a table there is kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError
from pyspark.sql import types as T

from kpi_common.aws import client_config, error_code, new_client, plain_aws_errors
from kpi_common.conf_files import load_toml
from kpi_common.contracts import Dataset
from kpi_common.files import is_s3
from kpi_common.log import log
from spark_app.errors import AppError
from spark_app.kpis import all_kpis
from spark_app.lake.delta_tables import Table
from spark_app.run.context import Context

if TYPE_CHECKING:
    from mypy_boto3_glue import GlueClient

_PARAMETERS = {"EXTERNAL": "TRUE", "classification": "delta", "spark.sql.sources.provider": "delta"}
_COMPARED = ("Description", "PartitionKeys", "TableType")


def register_tables(context: Context) -> None:
    """Bring the database `glue_database` in line with the lake; a failure is a warning of the run, not its end.

    By then everything is published and exported, and the next run with new files tries again.
    """
    database = context.settings.glue_database
    tables = {f"staged_{dataset}": context.lake.staged(dataset) for dataset in Dataset}
    tables |= {kpi.name: context.lake.kpi(kpi.name) for kpi in all_kpis()}
    try:
        glue: GlueClient = new_client("glue", config=client_config(attempts=3))
        with plain_aws_errors(f"Glue database {database}"):
            _ensure_database(glue, database)
            definitions = [_definition(context, name, table) for name, table in tables.items() if table.version() >= 0]
            changed = [wanted["Name"] for wanted in definitions if _register(context, glue, database, wanted)]
    except AppError as error:
        context.result.warn(f"the tables are not registered in the Glue Data Catalog: {error}")
        return
    log("glue catalogue", database=database, changed=changed)


def _definition(context: Context, name: str, table: Table) -> dict[str, Any]:
    """Describe a table as `CreateTable` takes it (its `TableInput`)."""
    comments = load_toml("glue/comments.toml")
    frame = table.read(context.spark)
    location = f"s3://{table.uri.partition('://')[2]}" if is_s3(table.uri) else f"file://{table.uri}"
    columns = {field.name: _column(field, comments["columns"]) for field in frame.schema.fields}
    return {
        "Name": name,
        "Description": comments["tables"].get(name, ""),
        "TableType": "EXTERNAL_TABLE",
        "Parameters": _PARAMETERS,
        "PartitionKeys": [columns.pop("listen_date")] if "listen_date" in columns else [],
        "StorageDescriptor": {
            "Columns": list(columns.values()),
            "Location": location,
            "SerdeInfo": {"Parameters": {"serialization.format": "1", "path": location}},
        },
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


def _register(context: Context, glue: GlueClient, database: str, wanted: dict[str, Any]) -> bool:
    """Make or change one table; return whether that was needed. A table of this name that lies elsewhere is left."""
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
        return False
    same = all(found.get(name) == wanted[name] for name in _COMPARED) and storage.get("Columns") == ours["Columns"]
    if same and parameters.items() >= _PARAMETERS.items():
        return False
    wanted = wanted | {"Parameters": parameters | _PARAMETERS, "StorageDescriptor": storage | ours}
    glue.update_table(DatabaseName=database, TableInput=wanted)  # type: ignore[arg-type]
    return True
