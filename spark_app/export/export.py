"""Export: the complete items of whole days, as DynamoDB JSON lines, with a manifest written last.

An export holds every day that changed since the newest receipt, so one that was never delivered is contained in the
next. `export_seq` grows with each export of a lake, and orders them: who delivers never goes back to a lower one.

A run that fell asleep for longer than its lease must not export old figures under a number above its successor's. So
the number is claimed first, in `ops/export_seq.json`, by a write that fails if another run claimed one since this run
was surely the only one (`_claim_seq`); all that is exported is as of before that claim. What a sleeper still writes
later has a lower number than what its successor exports.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from typing import Any

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from kpi_common.files import join, storage_for
from kpi_common.log import log, warn
from spark_app.config.dynamodb_layout import DATE_COLUMN, DynamoDbLayout, KpiTable, load_layout
from spark_app.errors import LockLostError
from spark_app.export.views import view
from spark_app.kpis import all_kpis
from spark_app.lake.delta_tables import LogGoneError
from spark_app.lake.tables import Lake
from spark_app.run.context import Context

MANIFEST = "manifest.json"
RECEIPT = "delivered.json"
SEQUENCE = "ops/export_seq.json"
_ROWS_AT_ONCE = 100_000  # on the driver, where a row takes some 2 kB


@dataclass(frozen=True)
class ExportState:
    """What the exports of a lake say: all complete manifests, and which of them were delivered."""

    manifests: tuple[dict[str, Any], ...]
    delivered: frozenset[str]

    @property
    def newest_delivered(self) -> dict[str, Any] | None:
        """Manifest of the newest export that has a receipt."""
        done = [manifest for manifest in self.manifests if manifest["run_id"] in self.delivered]
        return max(done, key=lambda manifest: manifest["export_seq"], default=None)

    @property
    def newest(self) -> dict[str, Any] | None:
        """Manifest of the newest complete export."""
        return max(self.manifests, key=lambda manifest: manifest["export_seq"], default=None)

    def undelivered_with(self, versions: Mapping[str, int]) -> dict[str, Any] | None:
        """Manifest of the newest export if it waits for its delivery and was made from these versions."""
        newest = self.newest
        if newest is None or newest["run_id"] in self.delivered or newest["kpi_versions"] != versions:
            return None
        return newest


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
        contents = list(pool.map(_read_manifest, manifests))
    return ExportState(tuple(manifest for manifest in contents if manifest is not None), frozenset(delivered))


def _read_manifest(uri: str) -> dict[str, Any] | None:
    """Read a manifest; None if it is damaged: then what it held is exported again."""
    try:
        manifest: dict[str, Any] = json.loads(storage_for(uri).read(uri) or b"")
        int(manifest["export_seq"]), str(manifest["run_id"]), dict(manifest["kpi_versions"])
    except (ValueError, KeyError, TypeError):
        warn("the manifest of an export can't be read; the export doesn't count", file=uri)
        return None
    return manifest


def export_changes(
    context: Context,
    complete_through: datetime | None,
    *,
    full: bool = False,
    computed: Mapping[str, DataFrame] | None = None,
) -> dict[str, Any] | None:
    """Export the dates of which a KPI changed since the newest receipt.

    Args:
        context: of the run.
        complete_through: modification time of the newest accepted streams file.
        full: export all dates.
        computed: by KPI table, all rows of the result's dirty dates, if this run has published them.

    Returns:
        The result's entry; None if there is nothing to export, or an export that was not delivered yet holds it all.

    Raises:
        LockLostError: another run holds the lake by now.
    """
    lake = context.lake
    versions = {kpi.name: lake.kpi(kpi.name).version() for kpi in all_kpis()}
    versions = {name: version for name, version in versions.items() if version >= 0}
    state = read_export_state(lake)
    delivered = None if full else state.newest_delivered
    dates = _all_dates(context, versions) if full else _changed_dates(context, delivered, versions)
    if not dates:
        return None
    waiting = None if full else state.undelivered_with(versions)
    if waiting is not None:
        context.result.warnings.append(f"export {waiting['run_id']} has not been delivered yet")
        log("an undelivered export holds all changes", run=waiting["run_id"])
        return None
    if not computed or not dates <= set(context.result.dirty_dates):
        computed = {name: lake.kpi(name).read(context.spark, version) for name, version in versions.items()}
    about = {
        "schema_version": 1,
        "lake_id": lake.lake_id,
        "run_id": context.run_id,
        "export_seq": _claim_seq(lake, state, context.run_id),
        "created_at": _iso(context.now),
        "kpi_time_zone": context.settings.kpi_time_zone,
        "complete_through": _iso(complete_through) if complete_through else None,
        "full": full,
        "changes_since": delivered["export_seq"] if delivered else 0,
        "kpi_versions": versions,
        "dates": sorted(dates),
    }
    manifest = _write_export(lake, about, load_layout(), computed, context.settings.export_part_items)
    return {
        "path": f"exports/{context.run_id}/{MANIFEST}",
        "export_seq": manifest["export_seq"],
        "dates": len(dates),
        "items": sum(table["items"] for table in manifest["tables"]),
    }


def delete_old_exports(context: Context, retention_days: int) -> None:
    """Delete exports that a newer delivered one contains, and what killed runs left of theirs, after the retention."""
    lake, state = context.lake, read_export_state(context.lake)
    newest = state.newest_delivered
    limit = context.now.timestamp() - retention_days * 86400
    older = {m["run_id"] for m in state.manifests if newest is not None and m["export_seq"] < newest["export_seq"]}
    by_run: dict[str, dict[str, datetime]] = defaultdict(dict)
    for stored in storage_for(lake.uri).list_files(lake.exports):
        run_id, _, name = stored.relative.partition("/")
        by_run[run_id][name] = stored.modified_at
    for run_id, times in by_run.items():
        ended = times.get(MANIFEST, max(times.values()))
        if (run_id in older or MANIFEST not in times) and ended.timestamp() < limit:
            lake.delete_folder(f"exports/{run_id}")


def _claim_seq(lake: Lake, state: ExportState, run_id: str) -> int:
    """Return a number above all that this lake ever had; no other run gets it.

    The tag is read before the lock is looked at, which `write_if` does first: so the claim fails if another run has
    claimed a number since the last moment at which this one was surely alone. What this run has read before is then
    not newer than what anybody exports under a higher number.
    """
    claim = uuid.uuid4().hex
    while True:
        data, tag = lake.read_tagged(SEQUENCE)
        before = [manifest["export_seq"] for manifest in state.manifests]
        with suppress(ValueError, KeyError, TypeError):  # a damaged file: the manifests say the same
            before.append(int(json.loads(data or b"")["export_seq"]))
        export_seq = 1 + max(before, default=0)
        content = {"export_seq": export_seq, "run_id": run_id, "claim": claim}
        if lake.write_if(SEQUENCE, json.dumps(content).encode(), tag) is not None:
            return export_seq


def _changed_dates(context: Context, delivered: dict[str, Any] | None, versions: Mapping[str, int]) -> set[str]:
    """Return the dates of which a KPI changed between the delivered export and these versions."""
    since = {} if delivered is None else delivered["kpi_versions"]
    dates: set[str] = set()
    try:
        for name, version in versions.items():
            dates |= context.lake.kpi(name).changed_dates(since.get(name, -1), version)
    except LogGoneError:
        return _all_dates(context, versions) | dates
    return dates


def _all_dates(context: Context, versions: Mapping[str, int]) -> set[str]:
    dates: set[str] = set()
    for name, version in versions.items():
        days = context.lake.kpi(name).read(context.spark, version).select(F.col(DATE_COLUMN).cast("string"))
        dates |= {row[0] for row in days.distinct().collect()}
    return dates


def _write_export(
    lake: Lake, about: dict[str, Any], layout: DynamoDbLayout, kpis: Mapping[str, DataFrame], part_items: int
) -> dict[str, Any]:
    """Write `exports/<run_id>/` and return its manifest."""
    folder, dates = f"exports/{about['run_id']}", about["dates"]
    lake.delete_folder(folder)
    writer = _PartWriter(lake, folder, part_items)
    done = 0
    for chunk in _chunks({name: kpis[name] for name in layout.tables}, dates):
        writer.add(chunk, _items(kpis, layout, chunk))
        done += len(chunk)
        log("exporting", dates_done=done, dates=len(dates))
    writer.close()
    tables = [table.key_schema() | {"items": writer.items_by_table[table.name]} for table in layout.tables.values()]
    manifest = {**about, "tables": tables, "parts": writer.parts}
    if lake.write_if(f"{folder}/{MANIFEST}", json.dumps(manifest, indent=1).encode(), None) is None:
        raise LockLostError(f"{join(lake.uri, folder)}: another run has written an export of the same run id")
    lake.ensure_held()
    return manifest


def _chunks(kpis: Mapping[str, DataFrame], dates: list[str]) -> Iterator[list[str]]:
    """Cut dates into parts of about _ROWS_AT_ONCE rows, however many rows a date has."""
    rows: Counter[str] = Counter()
    if len(dates) > 1:
        counted = reduce(DataFrame.unionAll, [frame.groupBy(DATE_COLUMN).count() for frame in kpis.values()])
        for row in counted.collect():
            rows[str(row[DATE_COLUMN])] += row["count"]
    chunk: list[str] = []
    for date in dates:
        if chunk and sum(rows[before] for before in chunk) + rows[date] > _ROWS_AT_ONCE:
            yield chunk
            chunk = []
        chunk.append(date)
    yield chunk


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
            item = table.item(row.asDict(), layout.max_text_bytes)
            line = json.dumps({"Item": item}, ensure_ascii=False, separators=(",", ":"))
            items[str(row[DATE_COLUMN])][table.name].append(line.encode())
    for tables in items.values():
        for lines in tables.values():
            lines.sort()
    return items


def _columns(table: KpiTable) -> list[str]:
    return list(dict.fromkeys([DATE_COLUMN, *(attribute.column for attribute in table.attributes.values())]))


class _PartWriter:
    """Gathers whole dates into parts of about `part_items` items and writes each part's files."""

    def __init__(self, lake: Lake, folder: str, part_items: int) -> None:
        self._lake, self._folder, self._part_items = lake, folder, part_items
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
        self._lake.write(f"{self._folder}/{path}", data)
        checksum = hashlib.sha256(data).hexdigest()
        return {"table": table, "path": path, "items": len(lines), "bytes": len(data), "sha256": checksum}


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
