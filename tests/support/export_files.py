"""Writes exports as the Spark application does, from items in plain Python values."""

import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

DAILY = "DailyGenreKPIs"
HOURLY = "HourlyKPIs"
TABLES: dict[str, dict[str, Any]] = {
    DAILY: {
        "partition_key": {"name": "date", "type": "S"},
        "sort_key": {"name": "genre", "type": "S"},
        "indexes": [
            {
                "name": "genre-date-index",
                "partition_key": {"name": "genre", "type": "S"},
                "sort_key": {"name": "date", "type": "S"},
            }
        ],
    },
    HOURLY: {
        "partition_key": {"name": "date", "type": "S"},
        "sort_key": {"name": "hour", "type": "S"},
        "indexes": [],
    },
}
Items = Mapping[str, Sequence[Mapping[str, Any]]]


def dynamodb_json(value: Any) -> dict[str, Any]:
    """Return a plain value as DynamoDB JSON; what is a dictionary of one of DynamoDB's types already stays."""
    if isinstance(value, dict):
        return value
    if isinstance(value, str):
        return {"S": value}
    if isinstance(value, list):
        return {"L": [dynamodb_json(element) for element in value]}
    assert isinstance(value, int | Decimal), value
    return {"N": str(value)}


def item_line(item: Mapping[str, Any]) -> bytes:
    """Return the line of an item in an export."""
    attributes = {name: dynamodb_json(value) for name, value in item.items()}
    return json.dumps({"Item": attributes}, ensure_ascii=False, separators=(",", ":")).encode()


def write_export(
    lake: Path,
    export_seq: int,
    days: Mapping[str, Items],
    *,
    run_id: str | None = None,
    days_a_part: int = 2,
    tables: Mapping[str, Mapping[str, Any]] = TABLES,
    finished: bool = True,
    lake_id: str | None = None,
    changes_since: int | None = None,
) -> str:
    """Write an export and return its run id.

    Args:
        lake: the lake's folder.
        export_seq: the number of the export.
        days: by date and table, the items; a table left out has nothing for that date.
        run_id: default `run-<export_seq>`.
        days_a_part: how many dates a part holds.
        tables: by name, the layout.
        finished: whether the manifest is written.
        lake_id: of the lake; None as in releases before lakes had one.
        changes_since: the export since which all changes are in this one; None as in releases before Redshift.
    """
    run_id = run_id or f"run-{export_seq}"
    folder = lake / "exports" / run_id
    folder.mkdir(parents=True, exist_ok=True)
    dates = sorted(days)
    counts = dict.fromkeys(tables, 0)
    parts = []
    for number, start in enumerate(range(0, len(dates), days_a_part)):
        part_dates = dates[start : start + days_a_part]
        files = []
        for table in tables:
            items = [item for date in part_dates for item in days[date].get(table, [])]
            if items:
                files.append(_write_file(folder, table, number, items))
                counts[table] += len(items)
        parts.append({"part": number, "dates": part_dates, "files": files})
    manifest = {
        "schema_version": 1,
        "run_id": run_id,
        "export_seq": export_seq,
        "created_at": "2024-06-26T02:00:00Z",
        "kpi_time_zone": "UTC",
        "complete_through": "2024-06-26T01:02:03Z",
        "full": False,
        "kpi_versions": {"daily_genre": export_seq},
        "dates": dates,
        "tables": [{"name": name, **layout, "items": counts[name]} for name, layout in tables.items()],
        "parts": parts,
    }
    if lake_id is not None:
        manifest["lake_id"] = lake_id
    if changes_since is not None:
        manifest["changes_since"] = changes_since
    if finished:
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=1), "utf-8")
    return run_id


def change_manifest(lake: Path, run_id: str, /, **changes: Any) -> None:
    """Overwrite fields of an export's manifest."""
    path = lake / "exports" / run_id / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")


def _write_file(folder: Path, table: str, part: int, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    content = gzip.compress(b"".join(item_line(item) + b"\n" for item in items), mtime=0)
    path = f"{table}/part-{part:05d}.json.gz"
    (folder / table).mkdir(exist_ok=True)
    (folder / path).write_bytes(content)
    return {
        "table": table,
        "path": path,
        "items": len(items),
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
