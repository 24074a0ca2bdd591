"""What is loaded, and the statements that do it: one transaction for each export.

COPY reads the export's own files: they hold whole days, never change, and say in the manifest what belongs to them. The
lake's Parquet files have no column `listen_date`, hold other days too, and are deleted by VACUUM.

`kpi_days` says of which export each day is. A day is never replaced by that of an older export, whatever is loaded when
or twice; a load that comes too late changes nothing and is a success.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from kpi_common.errors import UsageError
from kpi_common.files import Folder, is_s3
from kpi_common.log import log
from kpi_pipeline.errors import ExportError, OtherLakeError
from kpi_pipeline.export.reader import Export, complete_exports, export_folder
from kpi_pipeline.redshift.data_api import DataApi
from kpi_pipeline.redshift.tables import DATE, DAYS, RedshiftTable, definitions, load_tables, names
from kpi_pipeline.settings import RedshiftSettings

MOST_STATEMENTS = 40  # of one transaction of the Data API
FILES = "redshift"  # folder of what COPY needs, in the export's


def load(lake: Folder, settings: RedshiftSettings) -> list[int]:
    """Load each export that is due, and return their numbers; see `prepare`."""
    api, due = DataApi(settings), prepare(lake, settings)
    for statements in due.values():
        api.run(statements)
    return list(due)


def prepare(lake: Folder, settings: RedshiftSettings) -> dict[int, list[str]]:
    """Make tables and columns that are missing; return the statements of each export that is due, the oldest first.

    They stand by export_seq, and each list is to run as one transaction.

    Raises:
        ExportError: days that Redshift needs are in no export any more, or an export has tables that conf/ hasn't.
        OtherLakeError: the schema has the days of another lake.
    """
    if not is_s3(lake.uri):
        raise UsageError(f"--lake {lake.uri}: Redshift reads exports from S3 only, so it must be s3://…")
    exports = complete_exports(lake)
    loaded = loaded_days(DataApi(settings), settings.redshift_schema, exports)
    due = due_exports(exports, loaded)
    log("exports for Redshift", complete=len(exports), due=[export.export_seq for export in due])
    tables = load_tables()
    return {export.export_seq: load_statements(lake, export, tables, settings) for export in due}


def loaded_days(api: DataApi, schema: str, exports: Sequence[Export]) -> dict[str, int]:
    """Make tables and columns that are missing; return the days in Redshift, with the export_seq of each."""
    made = definitions(schema)
    columns = f"SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = {_text(schema)}"
    days = f"SELECT CAST({DATE} AS varchar), export_seq, lake_id, run_id FROM {names((schema, DAYS), '.')}"
    statement = api.run([*made, columns, days])
    present = {tuple(row) for row in api.rows(statement, len(made) + 1)}
    if missing := [
        f'ALTER TABLE {names((schema, table.name), ".")} ADD COLUMN "{column.name}" {column.sql_type}'
        for table in load_tables()
        for column in table.columns
        if (table.name, column.name) not in present
    ]:
        api.run(missing)
    rows = api.rows(statement, len(made) + 2)
    ours = {export.lake_id or "" for export in exports}
    if others := sorted({str(row[2]) for row in rows} - ours) if ours else []:
        raise OtherLakeError(
            f"schema {schema} has days of the lake {others[0] or 'without an id'}: name another redshift_schema, or "
            "drop that one if this lake takes its place"
        )
    return {str(date): int(export_seq) for date, export_seq, *_ in rows}


def due_exports(exports: Sequence[Export], loaded: Mapping[str, int]) -> list[Export]:
    """Return the exports, the oldest first, that have a day which Redshift has of no such or newer export.

    Args:
        exports: all that are there, by export_seq.
        loaded: export_seq by day.

    Raises:
        ExportError: some of what changed after the last one loaded is in no export any more.
    """
    last = complete = max(loaded.values(), default=0)
    for export in exports:
        if export.changes_since <= complete:
            complete = max(complete, export.export_seq)
    if exports and exports[-1].export_seq > complete:
        raise ExportError(
            f"Redshift is as of export {last}, and some of what changed after that is in no export any more: make one "
            "of all days (command `export --full` of the Spark application), deliver it, and load again"
        )
    due, newest = [], dict(loaded)
    for export in reversed(exports):
        if days := [date for date in export.dates if newest.get(date, 0) < export.export_seq]:
            due.append(export)
            newest |= dict.fromkeys(days, export.export_seq)
    return due[::-1]


def load_statements(
    lake: Folder, export: Export, tables: Sequence[RedshiftTable], settings: RedshiftSettings
) -> list[str]:
    """Write what COPY needs beside the export, and return the statements of the transaction that loads it.

    Those that check something fail by a division by zero; what it means stands in the statement's comment.
    """
    known = {layout.name for layout in export.tables}
    if unknown := known - {table.exported_as for table in tables}:
        raise ExportError(f"export {export.export_seq} has the tables {sorted(unknown)}, which conf/ here hasn't")
    tables = [table for table in tables if table.exported_as in known]
    schema, seq, lake_id = settings.redshift_schema, export.export_seq, _text(export.lake_id or "")
    days, dates = names((schema, DAYS), "."), ", ".join(f"('{date}')" for date in export.dates)
    due = f"IN (SELECT {DATE} FROM load_days)"
    other = _none(f"SELECT 1 FROM {days} WHERE lake_id <> {lake_id}")
    statements = [
        f"LOCK {days}",
        f"/* the days of another lake are in schema {schema} */\n{other}",
        f"CREATE TEMP TABLE load_days ({DATE} date)",
        f"INSERT INTO load_days VALUES {dates}",
        f"DELETE FROM load_days WHERE {DATE} IN (SELECT {DATE} FROM {days} WHERE export_seq > {seq})",
    ]
    for table in tables:
        statements.append(f'CREATE TEMP TABLE "load_{table.name}" (LIKE {names((schema, table.name), ".")})')
        statements += _copy(lake, export, table, settings.redshift_copy_role)
    wrong = "\nUNION ALL ".join(_wrong(export, table) for table in tables)
    statements.append(f"/* what was copied has a key twice, or not the rows of the export */\n{_none(wrong)}")
    for table in tables:
        target, columns = names((schema, table.name), "."), table.column_list
        statements += [
            f"DELETE FROM {target} WHERE {DATE} {due}",
            f'INSERT INTO {target} ({columns}) SELECT {columns} FROM "load_{table.name}" WHERE {DATE} {due}',
        ]
    through = _text(export.complete_through) if export.complete_through else "NULL"
    now = _text(datetime.now(UTC).isoformat(timespec="seconds"))  # Redshift's own clock is not for such statements
    about = f"{lake_id}, {seq}, {_text(export.run_id)}, CAST({through} AS timestamptz), CAST({now} AS timestamptz)"
    statements.append(f"DELETE FROM {days} WHERE {DATE} {due}")
    statements.append(f"INSERT INTO {days} SELECT {DATE}, {about} FROM load_days")
    if len(statements) > MOST_STATEMENTS:
        raise UsageError(f"{len(tables)} tables take {len(statements)} statements; Redshift allows {MOST_STATEMENTS}")
    return statements


def _copy(lake: Folder, export: Export, table: RedshiftTable, role: str) -> list[str]:
    folder = export_folder(export.run_id)
    files = [file.path for part in export.parts for file in part.files if file.table == table.exported_as]
    if not files:
        return []
    entries = [{"url": lake.location(f"{folder}/{path}"), "mandatory": True} for path in files]
    place = f"{folder}/{FILES}/{table.name}"
    lake.write(f"{place}.manifest", json.dumps({"entries": entries}).encode())
    lake.write(f"{place}.jsonpaths", json.dumps({"jsonpaths": [c.json_path for c in table.columns]}).encode())
    source, paths = (_text(lake.location(f"{place}.{ending}")) for ending in ("manifest", "jsonpaths"))
    by = role if role == "default" else _text(role)
    copy = f'COPY "load_{table.name}" ({table.column_list})\nFROM {source} IAM_ROLE {by}\n'
    return [f"{copy}MANIFEST GZIP FORMAT JSON {paths} TIMEFORMAT 'auto' COMPUPDATE OFF"]


def _wrong(export: Export, table: RedshiftTable) -> str:
    """Return a query that has a row if a loaded table has other rows than the export, or two of one key."""
    rows = sum(file.items for part in export.parts for file in part.files if file.table == table.exported_as)
    keys = f"count(DISTINCT CAST({DATE} AS varchar) || '|' || CAST(\"{table.key}\" AS varchar))"
    return f'SELECT 1 FROM "load_{table.name}" HAVING count(*) <> {rows} OR {keys} <> {rows}'


def _none(query: str) -> str:
    """Return a statement that fails if a query has rows."""
    return f"SELECT 1 / CASE WHEN count(*) = 0 THEN 1 ELSE 0 END FROM ({query}) AS wrong"


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
