"""What is in a lake, read without Spark: rows of its tables by DuckDB, items of its exports."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import duckdb

from tests.oracle.kpis import COLUMNS

# Without the columns that tell when, and in which order, files came in.
STAGED = {
    "staged/streams": "user_id, track_id, listen_time, copies, listen_date",
    "staged/songs": "track_id, track_genre, id, track_name, artists, album_name, popularity, duration_ms, copies",
    "staged/users": "user_id, user_country, age_band, copies",
}
TABLES = STAGED | {table: ", ".join(columns) for table, columns in COLUMNS.items()}
INSTANTS = {"listen_time", "listen_hour"}
Rows = list[tuple[Any, ...]]


@dataclass(frozen=True)
class LakeContent:
    """One local lake."""

    folder: Path

    def rows(self, table: str) -> Rows:
        """All rows of the newest version of a table, in order."""
        files = [str(self.folder / table / name) for name in self.files_of(table)]
        if not files:
            return []
        columns = ", ".join(f"epoch_us({name})" if name in INSTANTS else name for name in TABLES[table].split(", "))
        query = f"SELECT {columns} FROM read_parquet(?, hive_partitioning = true) ORDER BY ALL"  # noqa: S608
        return duckdb.execute(query, [files]).fetchall()

    def files_of(self, table: str) -> list[str]:
        """The data files of the newest version."""
        present: dict[str, bool] = {}
        for commit in sorted((self.folder / table / "_delta_log").glob("*.json")):
            for line in commit.read_text("utf-8").splitlines():
                action = json.loads(line)
                if "add" in action:
                    present[unquote(action["add"]["path"])] = True
                if "remove" in action:
                    present[unquote(action["remove"]["path"])] = False
        return [name for name, there in present.items() if there]

    def exports(self) -> dict[str, list[str]]:
        """The items of the newest complete export, by table of DynamoDB, in order."""
        manifests = [json.loads(path.read_text("utf-8")) for path in self.folder.glob("exports/*/manifest.json")]
        newest = max(manifests, key=lambda manifest: int(manifest["export_seq"]))
        return items_of(newest, lambda path: (self.folder / "exports" / newest["run_id"] / path).read_bytes())

    def results(self) -> list[dict[str, Any]]:
        """Each run's result, the oldest first."""
        found = [json.loads(path.read_text("utf-8")) for path in self.folder.glob("runs/*/result.json")]
        return sorted(found, key=lambda result: str(result["started_at"]))


def items_of(manifest: Mapping[str, Any], read: Any) -> dict[str, list[str]]:
    """The items of an export, by table, in order; `read` returns a file's bytes."""
    items: dict[str, list[str]] = {table["name"]: [] for table in manifest["tables"]}
    for part in manifest["parts"]:
        for file in part["files"]:
            lines = gzip.decompress(read(file["path"])).decode("utf-8").splitlines()
            items[file["table"]] += [json.dumps(json.loads(line), sort_keys=True) for line in lines]
    return {name: sorted(lines) for name, lines in items.items()}
