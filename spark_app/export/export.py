"""Export: the complete items of whole days, as DynamoDB JSON lines, with a manifest written last.

An export holds every day that changed since the newest receipt, so one that was never delivered is contained in the
next. `export_seq` grows with each export of a lake.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from kpi_common.files import join, storage_for
from kpi_common.log import log
from spark_app.config.dynamodb_layout import DATE_COLUMN, DynamoDbLayout, KpiTable
from spark_app.export.views import view
from spark_app.kpis import all_kpis
from spark_app.lake.delta_tables import LogGoneError
from spark_app.lake.tables import Lake

MANIFEST = "manifest.json"
RECEIPT = "delivered.json"
_DATES_AT_ONCE = 60


@dataclass(frozen=True)
class ExportState:
    """What the exports of a lake say: all complete manifests, and which of them were delivered."""

    manifests: tuple[dict[str, Any], ...]
    delivered: frozenset[str]

    def next_seq(self, now: datetime) -> int:
        """Return the number of the next export: milliseconds since 1970, and in any case above the one before.

        A lake that was lost and built again so goes on above the numbers that DynamoDB has seen.
        """
        before = max((manifest["export_seq"] for manifest in self.manifests), default=0)
        return max(before + 1, int(now.timestamp() * 1000))

    @property
    def newest_delivered(self) -> dict[str, Any] | None:
        """Manifest of the newest export that has a receipt."""
        done = [manifest for manifest in self.manifests if manifest["run_id"] in self.delivered]
        return max(done, key=lambda manifest: manifest["export_seq"], default=None)

    @property
    def newest(self) -> dict[str, Any] | None:
        """Manifest of the newest complete export."""
        return max(self.manifests, key=lambda manifest: manifest["export_seq"], default=None)


def read_export_state(lake: Lake) -> ExportState:
    """Read all manifests and the names of the receipts below `exports/`."""
    storage = storage_for(lake.uri)
    manifests, delivered = [], set()
    for stored in storage.list_files(lake.exports):
        run_id, _, name = stored.relative.rpartition("/")
        if name == MANIFEST:
            manifests.append(stored.uri)
        elif name == RECEIPT:
            delivered.add(run_id)
    with ThreadPoolExecutor(16) as pool:
        contents = [json.loads(data) for data in pool.map(storage.read, manifests) if data is not None]
    return ExportState(tuple(contents), frozenset(delivered))


def kpi_versions(lake: Lake) -> dict[str, int]:
    """Return the newest version of each KPI table (-1 where there is none)."""
    return {kpi.name: lake.kpi(kpi.name).version() for kpi in all_kpis()}


def dates_to_export(start_spark: Callable[[], SparkSession], lake: Lake, state: ExportState, *, full: bool) -> set[str]:
    """Return the dates of which a KPI changed since the newest receipt; all of them if there is none, or on `full`."""
    versions = kpi_versions(lake)
    delivered = state.newest_delivered
    dates: set[str] = set()
    everything = full
    for name, version in versions.items():
        if version < 0:
            continue
        since = -1 if delivered is None else delivered["kpi_versions"].get(name, -1)
        try:
            dates |= lake.kpi(name).changed_dates(since)
        except LogGoneError:
            everything = True
    if everything:
        for name, version in versions.items():
            if version >= 0:
                rows = (
                    lake.kpi(name)
                    .read(start_spark(), version)
                    .select(F.col(DATE_COLUMN).cast("string"))
                    .distinct()
                    .collect()
                )
                dates |= {row[0] for row in rows}
    return dates


@dataclass(frozen=True)
class ExportPlan:
    """What an export says of itself, and about how many items a part holds."""

    run_id: str
    export_seq: int
    full: bool
    created_at: datetime
    complete_through: datetime | None
    kpi_time_zone: str
    part_items: int


def write_export(
    spark: SparkSession,
    lake: Lake,
    layout: DynamoDbLayout,
    dates: Iterable[str],
    plan: ExportPlan,
    kpis: Mapping[str, DataFrame] | None = None,
) -> dict[str, Any]:
    """Write `exports/<run_id>/` and return its manifest; `kpis` are the tables' rows of these dates, if at hand."""
    ordered = sorted(dates)
    versions = kpi_versions(lake)
    if kpis is None:
        kpis = {name: lake.kpi(name).read(spark, version) for name, version in versions.items() if version >= 0}
    folder = join(lake.exports, plan.run_id)
    storage_for(lake.uri).delete_folder(folder)
    writer = _PartWriter(folder, plan.part_items)
    for start in range(0, len(ordered), _DATES_AT_ONCE):
        chunk = ordered[start : start + _DATES_AT_ONCE]
        writer.add(chunk, _items(kpis, layout, chunk))
        log("exporting", dates_done=start + len(chunk), dates=len(ordered))
    writer.close()
    manifest = {
        "schema_version": 1,
        "run_id": plan.run_id,
        "export_seq": plan.export_seq,
        "created_at": _iso(plan.created_at),
        "kpi_time_zone": plan.kpi_time_zone,
        "complete_through": _iso(plan.complete_through) if plan.complete_through else None,
        "full": plan.full,
        "kpi_versions": versions,
        "dates": ordered,
        "tables": [
            table.key_schema() | {"items": writer.items_by_table[table.name]} for table in layout.tables.values()
        ],
        "parts": writer.parts,
    }
    storage_for(lake.uri).write(join(folder, MANIFEST), json.dumps(manifest, indent=1).encode())
    return manifest


Items = Mapping[str, Mapping[str, list[bytes]]]  # date → table → lines


def _items(kpis: Mapping[str, DataFrame], layout: DynamoDbLayout, dates: list[str]) -> Items:
    wanted = {name: frame.where(F.col(DATE_COLUMN).isin(dates)) for name, frame in kpis.items()}
    items: dict[str, dict[str, list[bytes]]] = {date: defaultdict(list) for date in dates}

    def rows(name: str) -> list[Row]:
        return view(name, wanted).select(*_columns(layout.tables[name])).collect()

    with ThreadPoolExecutor() as pool:
        collected = dict(zip(layout.tables, pool.map(rows, layout.tables), strict=True))
    for name, table in layout.tables.items():
        for row in collected[name]:
            line = json.dumps({"Item": table.item(row.asDict())}, ensure_ascii=False, separators=(",", ":"))
            items[str(row[DATE_COLUMN])][table.name].append(line.encode())
    for tables in items.values():
        for lines in tables.values():
            lines.sort()
    return items


def _columns(table: KpiTable) -> list[str]:
    return list(dict.fromkeys([DATE_COLUMN, *(attribute.column for attribute in table.attributes.values())]))


class _PartWriter:
    """Gathers whole dates into parts of about `part_items` items and writes each part's files."""

    def __init__(self, folder: str, part_items: int) -> None:
        self._folder, self._part_items = folder, part_items
        self._dates: list[str] = []
        self._lines: dict[str, list[bytes]] = defaultdict(list)
        self.parts: list[dict[str, Any]] = []
        self.items_by_table: dict[str, int] = defaultdict(int)

    def add(self, dates: list[str], items: Items) -> None:
        """Add whole dates, in order."""
        for date in dates:
            for table, lines in items[date].items():
                self._lines[table] += lines
                self.items_by_table[table] += len(lines)
            self._dates.append(date)
            if sum(map(len, self._lines.values())) >= self._part_items:
                self.close()

    def close(self) -> None:
        """Write the part that is open, if any."""
        if not self._dates:
            return
        number = len(self.parts)
        files = [self._write(table, number, lines) for table, lines in sorted(self._lines.items())]
        self.parts.append({"part": number, "dates": self._dates, "files": files})
        self._dates, self._lines = [], defaultdict(list)

    def _write(self, table: str, number: int, lines: list[bytes]) -> dict[str, Any]:
        path = f"{table}/part-{number:05}.json.gz"
        data = gzip.compress(b"\n".join(lines) + b"\n", 6, mtime=0)
        storage_for(self._folder).write(join(self._folder, path), data)
        checksum = hashlib.sha256(data).hexdigest()
        return {"table": table, "path": path, "items": len(lines), "bytes": len(data), "sha256": checksum}


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
