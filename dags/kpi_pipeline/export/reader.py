"""Exports of a lake: the manifest, checked against its schema, and the items of a part, checked against the manifest.

An export is a folder `exports/<run_id>/`; one without `manifest.json` is not finished and doesn't count.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from jsonschema import Draft202012Validator

from kpi_common.conf_files import load_schema
from kpi_common.errors import UsageError
from kpi_common.files import Folder
from kpi_common.layout import TableLayout
from kpi_common.log import warn
from kpi_pipeline.dynamodb.items import TYPES, Item
from kpi_pipeline.errors import ExportError

SCHEMA_VERSION = 1
FOLDER = "exports"
MANIFEST = "manifest.json"
RECEIPT = "delivered.json"


@dataclass(frozen=True)
class PartFile:
    """A file with items of one table."""

    table: str
    path: str
    items: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Part:
    """The complete items of whole dates, of all tables."""

    number: int
    dates: tuple[str, ...]
    files: tuple[PartFile, ...]


@dataclass(frozen=True)
class Export:
    """A complete export."""

    lake_id: str | None  # None: of a release before lakes had one
    run_id: str
    export_seq: int
    changes_since: int  # all changes since that export are in this one; 0: all days are
    complete_through: str | None
    dates: tuple[str, ...]
    tables: tuple[TableLayout, ...]
    parts: tuple[Part, ...]

    @property
    def items(self) -> int:
        return sum(file.items for part in self.parts for file in part.files)

    def part(self, number: int) -> Part:
        """Return the part with this number; `UsageError` when there is none."""
        for part in self.parts:
            if part.number == number:
                return part
        raise UsageError(f"export of run {self.run_id} has no part {number}")


def export_folder(run_id: str) -> str:
    """Return the folder of a run's export, inside the lake."""
    return f"{FOLDER}/{run_id}"


def read_export(lake: Folder, run_id: str) -> Export:
    """Read and check the manifest of a run's export.

    Raises:
        UsageError: the run id can't be one.
        ExportError: the manifest is missing, damaged, newer than this program, or contradicts itself.
    """
    if not run_id or "/" in run_id or "\\" in run_id or run_id in (".", ".."):
        raise UsageError(f"'{run_id}' is no run id")
    path = f"{export_folder(run_id)}/{MANIFEST}"
    where = lake.location(path)
    try:
        content = lake.read(path)
    except FileNotFoundError as error:
        raise ExportError(f"{where} is missing: run {run_id} made no export, or did not finish it") from error
    manifest = _checked(content, where)
    if manifest["run_id"] != run_id:
        raise ExportError(f"{where} says that it belongs to run {manifest['run_id']}")
    export = _parse(manifest)
    _check_consistency(export, manifest, where)
    return export


class Undelivered(NamedTuple):
    """The export to deliver, if any, and what is wrong with others that can't be read."""

    export: Export | None
    broken: list[str]


def find_undelivered(lake: Folder) -> Undelivered:
    """Return the complete export with the highest export_seq; no export when it (or none at all) is delivered.

    An older undelivered export is contained in a newer one.

    Raises:
        ExportError: none of the undelivered exports can be read.
    """
    names: dict[str, set[str]] = {}
    for path in lake.files(FOLDER, frozenset({MANIFEST, RECEIPT})):
        _, run_id, name = path.split("/")
        names.setdefault(run_id, set()).add(name)
    exports, broken = [], []
    for run_id in (run_id for run_id, found in names.items() if found == {MANIFEST}):
        try:
            exports.append(read_export(lake, run_id))
        except ExportError as error:
            warn("an export can't be read and is left out", run_id=run_id, reason=str(error))
            broken.append(str(error))
    receipts = [read_receipt(lake, run_id) for run_id, found in names.items() if RECEIPT in found]
    if broken and not exports and not receipts:
        raise ExportError("; ".join(broken))
    newest = max(exports, key=lambda export: export.export_seq, default=None)
    if newest is not None and any(receipt["export_seq"] > newest.export_seq for receipt in receipts):
        newest = None
    return Undelivered(newest, broken)


def complete_exports(lake: Folder) -> list[Export]:
    """Return all complete exports that are still there, by export_seq; one that can't be read is warned of."""
    exports = []
    for path in lake.files(FOLDER, frozenset({MANIFEST})):
        try:
            exports.append(read_export(lake, path.split("/")[1]))
        except ExportError as error:
            warn("an export can't be read and is left out", file=lake.location(path), reason=str(error))
    return sorted(exports, key=lambda export: export.export_seq)


def latest_undelivered(lake: Folder) -> Export | None:
    """Return the export of `find_undelivered`."""
    return find_undelivered(lake).export


def read_receipt(lake: Folder, run_id: str) -> dict[str, Any]:
    """Read the receipt of a delivered export."""
    path = f"{export_folder(run_id)}/{RECEIPT}"
    where = lake.location(path)
    receipt = _json_object(lake.read(path), where)
    _check_schema(receipt, "delivery_receipt", where)
    return receipt


def read_part(lake: Folder, export: Export, part: Part) -> dict[str, list[Item]]:
    """Return a part's items by table; every table is there, also with no items.

    Raises:
        ExportError: a file is missing, is not the one that the manifest names, or holds items of other dates.
    """
    layouts = {layout.name: layout for layout in export.tables}
    items: dict[str, list[Item]] = {name: [] for name in layouts}
    for file in part.files:
        path = f"{export_folder(export.run_id)}/{file.path}"
        where = lake.location(path)
        lines = _read_lines(lake, path, file)
        found = _parse_lines(lines, where)
        if len(found) != file.items:
            raise ExportError(f"{where} has {len(found)} items, but the manifest says {file.items}")
        _check_dates(found, layouts[file.table], part, where)
        items[file.table].extend(found)
    return items


def check_files(lake: Folder, export: Export) -> None:
    """Read the whole export once, so that half an export is found before anything is written."""
    for part in export.parts:
        read_part(lake, export, part)


def _checked(content: bytes, where: str) -> dict[str, Any]:
    manifest = _json_object(content, where)
    version = manifest.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ExportError(
            f"{where} has schema_version {version}, made by a newer application; this program reads up to "
            f"{SCHEMA_VERSION}: update it"
        )
    _check_schema(manifest, "export_manifest", where)
    return manifest


def _json_object(content: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except ValueError as error:
        raise ExportError(f"{where} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ExportError(f"{where} is not a JSON object")
    return value


def _check_schema(document: dict[str, Any], schema: str, where: str) -> None:
    errors = sorted(Draft202012Validator(load_schema(schema)).iter_errors(document), key=lambda error: error.json_path)
    if not errors:
        return
    first = errors[0]
    hint = ""
    if "partition_key" in first.absolute_path:
        hint = " (the partition key must be the date, a string: another layout can't be delivered day by day)"
    more = f", and {len(errors) - 1} more" if len(errors) > 1 else ""
    raise ExportError(f"{where} breaks its schema at {first.json_path}: {first.message}{hint}{more}")


def _parse(manifest: dict[str, Any]) -> Export:
    parts = tuple(
        Part(
            number=part["part"],
            dates=tuple(part["dates"]),
            files=tuple(
                PartFile(file["table"], file["path"], file["items"], file["bytes"], file["sha256"])
                for file in part["files"]
            ),
        )
        for part in manifest["parts"]
    )
    return Export(
        lake_id=manifest.get("lake_id"),
        run_id=manifest["run_id"],
        export_seq=manifest["export_seq"],
        changes_since=manifest.get("changes_since", 0 if manifest["full"] else manifest["export_seq"] - 1),
        complete_through=manifest["complete_through"],
        dates=tuple(manifest["dates"]),
        tables=tuple(TableLayout.from_json(table) for table in manifest["tables"]),
        parts=parts,
    )


def _check_consistency(export: Export, manifest: dict[str, Any], where: str) -> None:
    for problem in _contradictions(export, manifest):
        raise ExportError(f"{where} contradicts itself: {problem}")


def _contradictions(export: Export, manifest: dict[str, Any]) -> Iterator[str]:
    names = [layout.name for layout in export.tables]
    if len(set(names)) != len(names):
        yield "a table is listed twice"
    numbers = [part.number for part in export.parts]
    if len(set(numbers)) != len(numbers):
        yield "two parts have the same number"
    in_parts = [date for part in export.parts for date in part.dates]
    if len(set(in_parts)) != len(in_parts):
        yield "a date is in two parts"
    if set(in_parts) != set(export.dates):
        yield f"dates and the parts' dates differ: {sorted(set(in_parts) ^ set(export.dates))[:5]}"
    counts = dict.fromkeys(names, 0)
    for part in export.parts:
        for file in part.files:
            if file.table not in counts:
                yield f"{file.path} is of the table {file.table}, which is not listed"
                return
            counts[file.table] += file.items
    for table in manifest["tables"]:
        if counts[table["name"]] != table["items"]:
            yield f"{table['name']} has {table['items']} items, but {counts[table['name']]} in its files"


def _read_lines(lake: Folder, path: str, file: PartFile) -> list[bytes]:
    where = lake.location(path)
    try:
        packed = lake.read(path)
    except FileNotFoundError as error:
        raise ExportError(f"{where} is missing, but the manifest names it") from error
    if len(packed) != file.bytes:
        raise ExportError(f"{where} has {len(packed)} bytes, but the manifest says {file.bytes}")
    sha256 = hashlib.sha256(packed).hexdigest()
    if sha256 != file.sha256:
        raise ExportError(f"{where} has the sha256 {sha256}, but the manifest says {file.sha256}")
    try:
        content = gzip.decompress(packed)
    except (OSError, EOFError, zlib.error) as error:
        raise ExportError(f"{where} is not a whole gzip file: {error}") from error
    return [line for line in content.split(b"\n") if line.strip()]


def _parse_lines(lines: list[bytes], where: str) -> list[Item]:
    try:  # all at once takes half as long; what is wrong with a line is found out one by one
        documents = json.loads(b"[%b]" % b",".join(lines))
    except ValueError:
        documents = []
    if len(documents) == len(lines) and all(map(_is_item, documents)):
        return [document["Item"] for document in documents]
    return [_parse_line(line, number, where) for number, line in enumerate(lines, start=1)]


def _is_item(document: Any) -> bool:
    """Whether a line is `{"Item": {name: {type: value}}}` with types that layouts use."""
    if not isinstance(document, dict) or document.keys() != {"Item"} or not isinstance(document["Item"], dict):
        return False
    values = document["Item"].values()
    return all(isinstance(value, dict) and len(value) == 1 and value.keys() <= TYPES for value in values)


def _parse_line(line: bytes, number: int, where: str) -> Item:
    try:
        document = json.loads(line)
    except ValueError:
        document = None
    if not _is_item(document):
        raise ExportError(f'{where}, line {number}: not a line of DynamoDB JSON, {{"Item": {{…}}}}, of S, N and L')
    item: Item = document["Item"]
    return item


def _check_dates(items: list[Item], layout: TableLayout, part: Part, where: str) -> None:
    name = layout.partition_key.name
    for number, item in enumerate(items, start=1):
        value = item.get(name, {}).get("S")
        if value not in part.dates:
            raise ExportError(
                f"{where}, line {number}: the partition key `{name}` is {value!r}, which is none of the part's dates. "
                f"The partition key of {layout.name} must be the date: another layout can't be delivered day by day."
            )
