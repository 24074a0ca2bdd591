"""Which tables a lake holds, and a DuckDB connection in which they are views.

Delta's log is read by `deltalake`. The data files of a lake on disk are then read by DuckDB itself, only the columns
and dates that a query needs; of a lake in S3, each table that is opened is loaded whole into memory.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from kpi_common.errors import StorageError, UsageError
from kpi_common.files import is_s3, join, normalise, storage_for

if TYPE_CHECKING:
    from deltalake import DeltaTable
    from duckdb import DuckDBPyConnection

_FOLDERS = ("kpis", "staged", "quarantine")  # schemas in SQL, the first one that has a name wins


def table_names(lake: str) -> list[str]:
    """Return the tables of a lake as SQL names them, `kpis.hourly`.

    Raises:
        UsageError: there is no lake at this place, or none of its tables was written yet.
    """
    names = set()
    for folder in _FOLDERS:
        for stored in storage_for(lake).list_files(join(lake, folder)):
            path = PurePosixPath(stored.relative)
            if path.parent.name == "_delta_log" and path.suffix == ".json":
                names.add(".".join([folder, *path.parent.parent.parts]))
    if not names:
        raise UsageError(f"--lake {lake}: no Delta table in kpis/, staged/ or quarantine/ below it; name a lake's root")
    return sorted(names)


def connect(lake: str, mentioned_in: str | None = None) -> DuckDBPyConnection:
    """Open the lake's tables, each as it is now, as views `<folder>.<table>`; times are shown in UTC.

    What is staged is there as `staged_<table>` too, as in the Glue Data Catalog.

    Args:
        lake: a folder, or s3://…
        mentioned_in: a query; tables whose names are not in its text are not opened. None opens all.

    Raises:
        UsageError: see `table_names`.
        StorageError: a table can't be read.
    """
    import duckdb

    lake = normalise(lake)
    names = table_names(lake)
    connection = duckdb.connect()
    connection.execute("LOAD icu; SET TimeZone = 'UTC'")
    for schema in {name.partition(".")[0] for name in names}:
        connection.execute(f'CREATE SCHEMA "{schema}"')
    for name in names:
        if mentioned_in is None or name.partition(".")[2] in mentioned_in:
            _open(connection, name, delta_table(join(lake, *name.split("."))))
            if name.startswith("staged."):  # as it is called in the Glue Data Catalog
                connection.execute(f'CREATE VIEW "{name.replace(".", "_")}" AS FROM {_quoted(name)}')
    schemas = [schema for schema in _FOLDERS if any(name.startswith(f"{schema}.") for name in names)]
    connection.execute(f"SET search_path = '{','.join([*schemas, 'main'])}'")
    return connection


def _open(connection: DuckDBPyConnection, name: str, table: DeltaTable) -> None:
    from arro3.core import Table
    from deltalake import QueryBuilder

    target = _quoted(name)
    if is_s3(table.table_uri):
        rows = QueryBuilder().register("delta", table).execute("SELECT * FROM delta")
        connection.register("rows_of_delta", rows)
        connection.execute(f"CREATE TABLE {target} AS SELECT * FROM rows_of_delta")  # noqa: S608 (a folder's name)
        connection.unregister("rows_of_delta")
        return
    # No row, but all columns: the table's own, in their order and types, also where no data file has them.
    columns = f"columns of {name}"
    connection.register(columns, Table.from_batches([], schema=table.schema().to_arrow()))
    query = f'SELECT * FROM "{columns}"'  # noqa: S608 (a folder's name)
    if files := table.file_uris():
        listed = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
        files_sql = f"read_parquet([{listed}], hive_partitioning=true, union_by_name=true)"
        query += f" UNION ALL BY NAME SELECT * FROM {files_sql}"  # noqa: S608 (names of files, quoted)
    connection.execute(f"CREATE VIEW {target} AS {query}")


def _quoted(name: str) -> str:
    schema, _, short = name.partition(".")
    return f'"{schema}"."{short}"'


def delta_table(uri: str) -> DeltaTable:
    """Open a Delta table as it is now, on disk or in S3.

    Raises:
        StorageError: it can't be read.
    """
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    try:
        if is_s3(uri):
            return DeltaTable(f"s3://{uri.partition('://')[2]}", storage_options=_s3_options())
        return DeltaTable(uri)
    except (DeltaError, OSError) as error:
        raise StorageError(f"{uri}: can't be read as a Delta table: {error}") from error


def _s3_options() -> dict[str, str]:
    """Credentials, region and endpoint as boto3 finds them, in the words of deltalake."""
    from kpi_common.aws import credential_variables, shared_s3_client

    client = shared_s3_client()
    endpoint = client.meta.endpoint_url
    options = {"AWS_ENDPOINT_URL": endpoint}
    if endpoint.startswith("http://"):
        options["AWS_ALLOW_HTTP"] = "true"
    if client.meta.region_name:
        options["AWS_REGION"] = client.meta.region_name
    return options | credential_variables()
