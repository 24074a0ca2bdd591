"""`./build.sh sql "select …"`: a query over the lake's tables by DuckDB, without Spark.

Tables are kpis.<name>, staged.<name> and quarantine.records, also without the folder where that is unique. Without a
query, it lists them with their columns. Ready queries are in docs/queries.md.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING

from tools.toolchain import BUILD

if TYPE_CHECKING:
    from duckdb import DuckDBPyRelation

_COLUMNS = """
    SELECT schema_name || '.' || table_name AS "table", column_name AS "column", lower(data_type) AS type
    FROM duckdb_columns() WHERE schema_name IN ('kpis', 'staged', 'quarantine') ORDER BY 1, column_index
"""


def main(arguments: Sequence[str]) -> int:
    """Run one query; return 0, or 2 where it, or the lake, is wrong."""
    parser = argparse.ArgumentParser(
        prog="./build.sh sql", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("query", nargs="?", help="SQL of DuckDB; - reads it from standard input")
    parser.add_argument("--lake", metavar="DIR|s3://…", default=str(BUILD / "lake"), help="default: .build/lake")
    parser.add_argument("--format", choices=["table", "csv", "json"], default="table", help="default: table")
    options = parser.parse_args(arguments)

    import duckdb

    from kpi_common.errors import AppError
    from lake_reader.duckdb_views import connect

    query = sys.stdin.read() if options.query == "-" else options.query
    try:
        connection = connect(options.lake, query)
        result = connection.sql(query or _COLUMNS)
        if result is not None:
            _show(result, options.format)
            sys.stdout.flush()
    except (AppError, duckdb.Error) as error:
        print(f"error: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 2)
    except BrokenPipeError:  # of `| head`: nothing more is to be written, not even at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _show(result: DuckDBPyRelation, how: str) -> None:
    if how == "table":
        result.show(max_width=200, max_rows=100)
        return
    columns = result.columns
    rows = [[_plain(value) for value in row] for row in result.fetchall()]
    if how == "csv":
        csv.writer(sys.stdout, lineterminator="\n").writerows([columns, *rows])
        return
    for row in rows:
        print(json.dumps(dict(zip(columns, row, strict=True)), default=str, ensure_ascii=False))


def _plain(value: object) -> object:
    """Times in ISO 8601; decimals as they are: no figure goes through a float."""
    return value.isoformat() if isinstance(value, date) else value


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
