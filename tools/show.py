"""What `./build.sh run` prints when the work is done: the run's result, and KPIs as read back from DynamoDB."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from boto3.dynamodb.types import TypeDeserializer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kpi_common.conf_files import load_toml
from kpi_common.layout import TableLayout
from kpi_pipeline.aws import dynamodb_client
from kpi_pipeline.dynamodb.tables import status_layout
from kpi_pipeline.export.reader import Export
from kpi_pipeline.settings import load_delivery_settings

Row = dict[str, Any]
Query = Callable[[TableLayout, str], list[Row]]

WIDTH_WITHOUT_TERMINAL = 120
WIDEST_TEXT = 26
COLUMN_GAP = 2
ROWS_SHOWN = 3
TOP_GENRES = 5
FATES = ("rows", "valid", "duplicates", "quarantined", "waiting")


def new_console() -> Console:
    """Return a console that is as wide as the terminal, or wide enough where there is none."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL)


def show_result(console: Console, result: Mapping[str, Any]) -> None:
    """Print files by outcome, rows by fate and reason, and seconds per step of a run."""
    print_table(console, "Files", ("dataset", "outcome", "files"), _files_by_outcome(result))
    print_table(console, "Rows of the files taken", ("dataset", *FATES), _rows_by_fate(result))
    print_table(console, "Quarantined rows", ("dataset", "reason", "rows"), _rows_by_reason(result))
    print_table(console, "Files not taken", ("file", "outcome", "reason", "what it means"), _files_not_taken(result))
    print_table(console, "Steps", ("step", "seconds"), [(step["name"], step["seconds"]) for step in result["steps"]])


def show_kpis(console: Console, export: Export, endpoint_url: str) -> None:
    """Read the newest day of an export back from DynamoDB and print its top genres and rows of each table."""
    settings = load_delivery_settings()
    client, deserializer = dynamodb_client(endpoint_url), TypeDeserializer()

    def query(layout: TableLayout, date: str) -> list[Row]:
        pages = client.get_paginator("query").paginate(
            TableName=settings.table_name(layout.name),
            KeyConditionExpression="#d = :d",
            ExpressionAttributeNames={"#d": layout.partition_key.name},
            ExpressionAttributeValues={":d": {"S": date}},
            ConsistentRead=True,
        )
        items = [item for page in pages for item in page["Items"]]
        return [{name: deserializer.deserialize(value) for name, value in item.items()} for item in items]

    if not export.dates:
        return
    date = max(export.dates)
    layouts = [*export.tables, status_layout(settings)]
    console.rule(f"[bold]Read back from DynamoDB: {date}")
    _show_top_genres(console, query, export.tables, date)
    for layout in layouts:
        items = query(layout, date)
        columns = _columns(layout, items[:ROWS_SHOWN], console.width)
        title = f"{settings.table_name(layout.name)}: {len(items)} items on {date}"
        rows = [[item.get(column, "") for column in columns] for item in items[:ROWS_SHOWN]]
        print_table(console, title, columns, rows)


def show_places(console: Console, places: Mapping[str, object]) -> None:
    """Print where everything lies."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for name, place in places.items():
        table.add_row(name, escape(str(place)))
    console.print()
    console.print(table, soft_wrap=True)


def _files_by_outcome(result: Mapping[str, Any]) -> list[Sequence[object]]:
    listed = Counter((file["dataset"], file["outcome"]) for file in result["files"])
    unlisted = Counter(result["totals"]["files"])
    for (_, outcome), count in listed.items():
        unlisted[outcome] -= count
    rows: list[Sequence[object]] = [(dataset, outcome, count) for (dataset, outcome), count in sorted(listed.items())]
    return rows + [("", outcome, count) for outcome, count in unlisted.items() if count > 0]


def _rows_by_fate(result: Mapping[str, Any]) -> list[Sequence[object]]:
    totals = result["totals_by_dataset"].items()
    return [(dataset, *(counts[fate] for fate in FATES)) for dataset, counts in totals if counts["rows"]]


def _rows_by_reason(result: Mapping[str, Any]) -> list[Sequence[object]]:
    return [
        (dataset, reason, rows)
        for dataset, totals in result["totals_by_dataset"].items()
        for reason, rows in sorted(totals["quarantined_by_reason"].items(), key=lambda entry: -entry[1])
    ]


def _files_not_taken(result: Mapping[str, Any]) -> list[Sequence[object]]:
    return [
        (file["name"], file["outcome"], file["reason"] or "", file["message"] or "")
        for file in result["files"]
        if file["outcome"] != "accepted"
    ]


def _show_top_genres(console: Console, query: Query, layouts: Iterable[TableLayout], date: str) -> None:
    """Rank the day's genres as a reader of the genre table would."""
    table = load_toml("dynamodb/kpi_tables.toml")["tables"]["daily_genre"]
    layout = next((layout for layout in layouts if layout.name == table["name"]), None)
    shown = ("track_genre", "listen_count", "unique_listeners", "most_popular_track_name")
    names = {attribute["column"]: name for name, attribute in table["attributes"].items()}
    if layout is None or not names.keys() >= set(shown):
        return
    genre, listens, listeners, song = (names[column] for column in shown)
    items = sorted(query(layout, date), key=lambda item: (-item[listens], item[genre]))
    rows = [
        (rank, item[genre], item[listens], item[listeners], item.get(song, ""))
        for rank, item in enumerate(items[:TOP_GENRES], start=1)
    ]
    print_table(console, f"Top genres of {date}", ("rank", "genre", "listens", "listeners", "most popular song"), rows)


def _columns(layout: TableLayout, items: Sequence[Row], width: int) -> list[str]:
    """Return the attributes to show: the sort key, then in the order of the layout, as many as fit."""
    there = {name for item in items for name in item} - {layout.partition_key.name}
    first = [layout.sort_key.name] if layout.sort_key else []
    order = [name for table in load_toml("dynamodb/kpi_tables.toml")["tables"].values() for name in table["attributes"]]
    columns: list[str] = []
    for name in dict.fromkeys([*first, *order, *sorted(there)]):
        if name not in there:
            continue
        widest = max(len(_text(item.get(name, ""))) for item in items)
        width -= COLUMN_GAP + max(len(name), min(widest, WIDEST_TEXT))
        if width < 0:
            break
        columns.append(name)
    return columns


def print_table(console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows with numbers to the right; nothing where there are none."""
    if not rows:
        return
    table = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=None)
    for position, column in enumerate(columns):
        numeric = all(_is_number(row[position]) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", no_wrap=numeric, overflow="fold")
    for row in rows:
        table.add_row(*(escape(_text(cell)) for cell in row))
    console.print()
    console.print(table)


def _is_number(value: object) -> bool:
    return not isinstance(value, str | list | dict | bool) and value is not None


def _text(value: object) -> str:
    if isinstance(value, list):
        return "; ".join(_text(element) for element in value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.1f}"
    return str(value)
