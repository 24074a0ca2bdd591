"""Whether Redshift has what the exports say: rows, sums of each number and keys, by table and day."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from kpi_common.errors import UsageError
from kpi_common.files import Folder
from kpi_pipeline.dynamodb.items import Item
from kpi_pipeline.export.reader import Export, complete_exports, read_part
from kpi_pipeline.redshift.data_api import DataApi
from kpi_pipeline.redshift.load import loaded_days
from kpi_pipeline.redshift.tables import DATE, Column, RedshiftTable, load_tables, names
from kpi_pipeline.settings import RedshiftSettings


@dataclass
class Figures:
    """A table's figures of a day."""

    rows: int = 0
    sums: dict[str, Decimal] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)


Days = Mapping[str, Figures]


@dataclass(frozen=True)
class Validation:
    """What was compared, and what differs, a sentence each; `without_export` are days that no export has any more."""

    days: int
    rows: int
    without_export: int
    problems: list[str]


def validate(lake: Folder, settings: RedshiftSettings) -> Validation:
    """Compare each day with the newest export that has it.

    Raises:
        UsageError: the lake has no export.
    """
    exports = complete_exports(lake)
    if not exports:
        raise UsageError(f"{lake.uri} has no export to compare Redshift with")
    newest = {date: export.export_seq for export in exports for date in export.dates}
    api, tables = DataApi(settings), load_tables()
    loaded = loaded_days(api, settings.redshift_schema, exports)
    problems = [
        f"{date}: of export {loaded.get(date, 'none')}, but the newest that has it is {seq}"
        for date, seq in sorted(newest.items())
        if loaded.get(date) != seq
    ]
    expected = _exported(lake, exports, newest, tables)
    queries = [query for table in tables for query in validation_queries(table, settings.redshift_schema)]
    statement = api.run(queries)
    for number, table in enumerate(tables):
        figures, keys = (api.rows(statement, 2 * number + place) for place in (1, 2))
        problems += _differences(table, expected[table.name], _loaded(table, figures, keys), set(newest))
    rows = sum(day.rows for days in expected.values() for day in days.values())
    return Validation(len(newest), rows, len(loaded.keys() - newest.keys()), problems)


def validation_queries(table: RedshiftTable, schema: str) -> list[str]:
    """Return the queries of a table: rows and sums by day, and all keys by day."""
    place, date = names((schema, table.name), "."), f'CAST("{DATE}" AS varchar)'
    sums = "".join(f', sum("{column.name}")' for column in table.numbers)
    key = f'CAST("{table.key}" AS varchar)'
    if table.column(table.key).sql_type == "timestamptz":  # as exports have it
        key = f"""to_char("{table.key}" AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')"""
    return [
        f"SELECT {date}, count(*){sums} FROM {place} GROUP BY {date}",
        f"SELECT {date}, {key} FROM {place}",
    ]


def _exported(
    lake: Folder, exports: Sequence[Export], newest: Mapping[str, int], tables: Sequence[RedshiftTable]
) -> dict[str, dict[str, Figures]]:
    """Return the figures of the newest export of each day, by table."""
    found: dict[str, dict[str, Figures]] = {table.name: defaultdict(Figures) for table in tables}
    for export in exports:
        for part in export.parts:
            dates = {date for date in part.dates if newest[date] == export.export_seq}
            items = read_part(lake, export, part) if dates else {}
            for table in tables:
                for item in items.get(table.exported_as, []):
                    date = _value(table.column(DATE), item)
                    if date in dates:
                        _add(found[table.name][str(date)], table, item)
    return found


def _add(day: Figures, table: RedshiftTable, item: Item) -> None:
    day.rows += 1
    day.keys.add(str(_value(table.column(table.key), item)))
    for column in table.numbers:
        day.sums[column.name] = day.sums.get(column.name, Decimal(0)) + Decimal(_value(column, item) or 0)


def _loaded(table: RedshiftTable, figures: Iterable[list[Any]], keys: Iterable[list[Any]]) -> Days:
    found: dict[str, Figures] = {}
    for date, rows, *sums in figures:
        by_name = zip(table.numbers, sums, strict=True)
        found[date] = Figures(int(rows), {column.name: Decimal(str(value or 0)) for column, value in by_name})
    for date, key in keys:
        found[date].keys.add(key)
    return found


def _differences(table: RedshiftTable, expected: Days, loaded: Days, dates: set[str]) -> list[str]:
    problems = []
    for date in sorted(dates & (expected.keys() | loaded.keys())):
        ours, theirs = expected.get(date, Figures()), loaded.get(date, Figures())
        wrong = [] if ours.rows == theirs.rows else [f"{theirs.rows} rows, not {ours.rows}"]
        wrong += [f"the key {key} is missing" for key in sorted(ours.keys - theirs.keys)[:3]]
        wrong += [f"the key {key} is too many" for key in sorted(theirs.keys - ours.keys)[:3]]
        wrong += [
            f"the sum of {name} is {theirs.sums.get(name, 0)}, not {total}"
            for name, total in ours.sums.items()
            if theirs.sums.get(name, 0) != total
        ]
        problems += [f"{table.name}, {date}: {problem}" for problem in wrong]
    return problems


def _value(column: Column, item: Item) -> Any:
    return item.get(column.attribute, {}).get(column.kind)
