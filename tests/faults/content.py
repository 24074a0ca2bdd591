"""What must be equal: all that a lake and DynamoDB hold, without run ids, file numbers and times of writing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import duckdb
from mypy_boto3_dynamodb import DynamoDBClient

from tests.integration.delivery_helpers import STATUS, scan
from tests.oracle.kpis import COLUMNS

INSTANTS = {"listen_time", "listen_hour", "file_modified_at"}
TABLES = {
    "staged/streams": "user_id, track_id, listen_time, copies, listen_date",
    "staged/songs": "file_name, file_modified_at, track_id, track_genre, id, track_name, artists, album_name, "
    "popularity, duration_ms, copies",
    "staged/users": "file_modified_at, user_id, user_country, age_band, copies",
    "quarantine/records": "dataset, file_name, line_number, raw, reasons",
    **{table: ", ".join(columns) for table, columns in COLUMNS.items()},
}
LEDGER = (
    *("name", "dataset", "etag", "size", "status", "reason", "message", "rows", "valid", "duplicates", "quarantined"),
    *("waiting", "unknown_users", "quarantined_by_reason"),
)
KPI_TABLES = (
    "DailyGenreKPIs",
    "DailyCountryKPIs",
    "TopSongsPerGenre",
    "HourlyKPIs",
    "TopAlbumsPerHour",
)
OF_A_RUN = ("version", "run_id", "updated_at", "writing_version")


@dataclass(frozen=True)
class LakeSnapshot:
    """One local lake, read without Spark."""

    folder: Path

    def everything(self) -> dict[str, Any]:
        """All tables, and the fate of each file."""
        return {table: self.rows(table, columns) for table, columns in TABLES.items()} | {"files": self.fates()}

    def fates(self) -> list[Any]:
        """The version of each file that counts: the accepted one, else the last that was judged."""
        shards = [json.loads(path.read_bytes()) for path in (self.folder / "ops" / "files").glob("*.json")]
        fates = []
        for versions in (versions for shard in shards for versions in shard.values()):
            newest = max(versions, key=lambda v: (v["status"] != "abandoned", v["status"] == "accepted", v["version"]))
            fates.append([str(newest[name]) for name in LEDGER])
        return sorted(fates)

    def rows(self, table: str, columns: str) -> list[Any]:
        """All rows of the newest version of a table, in order."""
        files = [str(self.folder / table / name) for name in self._files(table)]
        if not files:
            return []
        wanted = ", ".join(f"epoch_us({name})" if name in INSTANTS else name for name in columns.split(", "))
        query = f"SELECT {wanted} FROM read_parquet(?, hive_partitioning = true) ORDER BY ALL"  # noqa: S608
        return duckdb.execute(query, [files]).fetchall()

    def _files(self, table: str) -> list[str]:
        present: dict[str, bool] = {}
        for commit in sorted((self.folder / table / "_delta_log").glob("*.json")):
            for line in commit.read_text("utf-8").splitlines():
                action = json.loads(line)
                for kind in ("add", "remove"):
                    if kind in action:
                        present[unquote(action[kind]["path"])] = kind == "add"
        return [name for name, there in present.items() if there]


def delivered_items(client: DynamoDBClient, prefix: str) -> dict[str, Any]:
    """All items of the KPI tables, and what the status items say of each day."""
    items: dict[str, Any] = {name: sorted(map(plain, scan(client, prefix + name))) for name in KPI_TABLES}
    days = [item for item in scan(client, prefix + STATUS) if not item["date"].startswith("#")]
    items[STATUS] = sorted(plain({k: v for k, v in day.items() if k not in OF_A_RUN}) for day in days)
    return items


def plain(item: dict[str, Any]) -> str:
    """Return an item as a text that is the same for equal items."""
    return json.dumps(item, sort_keys=True, default=str)
