"""Redshift's tables, made from the layout in `conf/dynamodb/kpi_tables.toml`: its tables, with the lake's columns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kpi_common.conf_files import load_toml
from kpi_common.errors import UsageError

LAYOUT = "dynamodb/kpi_tables.toml"
DATE = "listen_date"
_TYPES = {DATE: "date", "listen_hour": "timestamptz"}  # which an export has as texts
_LONGEST_KEY = 2048  # bytes; DynamoDB takes none that is longer
DAYS = "kpi_days"
DAYS_TABLE = f"""(
    {DATE} date NOT NULL,
    lake_id varchar(64) NOT NULL,
    export_seq bigint NOT NULL,
    run_id varchar(1024) NOT NULL,
    complete_through timestamptz,
    loaded_at timestamptz NOT NULL,
    PRIMARY KEY ({DATE})
)
DISTSTYLE ALL
SORTKEY ({DATE})"""


@dataclass(frozen=True)
class Column:
    """A column: its name (the lake's, too), its type, and the attribute of an export's items, with DynamoDB's type."""

    name: str
    sql_type: str
    attribute: str
    kind: str

    @property
    def json_path(self) -> str:
        return f"$['Item']['{self.attribute}']['{self.kind}']"

    @property
    def is_number(self) -> bool:
        return self.sql_type.startswith(("bigint", "decimal"))


@dataclass(frozen=True)
class RedshiftTable:
    """A table. Its key is the date and one more column, by which a day's rows are spread over all slices."""

    name: str
    exported_as: str
    key: str
    columns: tuple[Column, ...]

    @property
    def column_list(self) -> str:
        return names(column.name for column in self.columns)

    @property
    def numbers(self) -> list[Column]:
        return [column for column in self.columns if column.is_number]

    def column(self, name: str) -> Column:
        return next(column for column in self.columns if column.name == name)

    def definition(self, schema: str) -> str:
        """Return the statement that makes the table unless it is there."""
        key = names((DATE, self.key))
        required = {DATE, self.key}
        lines = [f'"{c.name}" {c.sql_type}{" NOT NULL" if c.name in required else ""}' for c in self.columns]
        body = ",\n    ".join([*lines, f"PRIMARY KEY ({key})"])
        place = names((schema, self.name), ".")
        return f'CREATE TABLE IF NOT EXISTS {place} (\n    {body}\n)\nDISTKEY ("{self.key}")\nCOMPOUND SORTKEY ({key})'


def names(parts: Iterable[str], separator: str = ", ") -> str:
    """Return names quoted, as they may be words of SQL."""
    return separator.join(f'"{part}"' for part in parts)


def load_tables() -> tuple[RedshiftTable, ...]:
    """Return all tables.

    Raises:
        UsageError: the layout lacks something.
    """
    layout = load_toml(LAYOUT)
    try:
        return tuple(_table(name, table, layout["max_text_bytes"]) for name, table in layout["tables"].items())
    except (KeyError, TypeError) as error:
        raise UsageError(f"conf/{LAYOUT}: a table needs name, sort_key and attributes: {error!r}") from error


def definitions(schema: str) -> list[str]:
    """Return the statements that make the schema and all tables unless they are there."""
    days = f"CREATE TABLE IF NOT EXISTS {names((schema, DAYS), '.')} {DAYS_TABLE}"
    tables = [table.definition(schema) for table in load_tables()]
    return [f'CREATE SCHEMA IF NOT EXISTS "{schema}"', days, *tables]


def _table(name: str, table: dict[str, Any], max_text_bytes: int) -> RedshiftTable:
    key = table["attributes"][table["sort_key"]]["column"]
    columns: dict[str, Column] = {}  # one column may be in two attributes
    for attribute, found in table["attributes"].items():
        sql_type = _sql_type(found, _LONGEST_KEY if found["column"] == key else max_text_bytes)
        columns.setdefault(found["column"], Column(found["column"], sql_type, attribute, found["type"]))
    return RedshiftTable(name, table["name"], key, tuple(columns.values()))


def _sql_type(attribute: dict[str, Any], text_bytes: int) -> str:
    """Return the type of an attribute's column; a list stays as the export has it, DynamoDB JSON."""
    if attribute["column"] in _TYPES:
        return _TYPES[attribute["column"]]
    scale = attribute.get("scale", 0)
    number = f"decimal(18,{scale})" if scale else "bigint"
    return {"N": number, "L": "super", "S": f"varchar({text_bytes})"}[attribute["type"]]
