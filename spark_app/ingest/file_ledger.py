"""The lake's ledger of files (`ops/ingested_files`): one row a file version, and what became of it.

A file keeps its `file_id` for ever; each content it comes with is a `version` of it. The ledger alone decides
whether a file's rows count.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from pyspark.sql import SparkSession

from kpi_common.files import storage_for
from kpi_common.log import warn
from spark_app.config.contracts import Dataset
from spark_app.lake.delta_tables import Commit, Table
from spark_app.run.files import FileVersion, InputFile, Status
from spark_app.spark.local_frames import local_frame

LEDGER_SCHEMA = """
    file_id int, version int, dataset string, name string, uri string, etag string, size bigint,
    modified_at timestamp, stat string, status string, reason string, message string,
    rows bigint, valid bigint, duplicates bigint, quarantined bigint, waiting bigint, unknown_users bigint,
    quarantined_by_reason string, run_id string, updated_at timestamp
"""
_COLUMNS = [line.split()[0] for line in LEDGER_SCHEMA.replace("\n", " ").split(",")]


class Decision(StrEnum):
    """What a run does with a listed file."""

    NEW = "new"
    ALREADY_STAGED = "already_staged"
    STILL_REJECTED = "still_rejected"
    STILL_WITHDRAWN = "still_withdrawn"
    SUPERSEDED = "superseded"


class Ledger:
    """The ledger in memory: pure decisions, no reading or writing."""

    def __init__(self, versions: Iterable[FileVersion] = ()) -> None:
        self._by_name: dict[str, list[FileVersion]] = {}
        self.saved: dict[str, list[FileVersion]] = {}  # the rows that the table holds, by name
        for version in sorted(versions, key=lambda v: (v.file_id, v.version)):
            self._by_name.setdefault(version.name, []).append(version)

    @property
    def all(self) -> list[FileVersion]:
        """All file versions, by file and version."""
        return [version for versions in self._by_name.values() for version in versions]

    def of(self, name: str) -> list[FileVersion]:
        """All versions of one file, oldest first."""
        return self._by_name.get(name, [])

    def accepted(self, name: str) -> FileVersion | None:
        """The version of a file whose rows count, if any."""
        return next((v for v in self.of(name) if v.status is Status.ACCEPTED), None)

    @property
    def complete_through(self) -> datetime | None:
        """Modification time of the newest accepted streams file."""
        accepted = self.with_status(Status.ACCEPTED)
        return max((v.modified_at for v in accepted if v.dataset is Dataset.STREAMS), default=None)

    def with_status(self, *statuses: Status) -> list[FileVersion]:
        """All file versions in one of these states."""
        return [version for version in self.all if version.status in statuses]

    def etag_by_stat(self, file: InputFile) -> str | None:
        """Return the etag of a local file that was not touched since the ledger saw it."""
        if file.stat is None:
            return None
        return next((v.etag for v in reversed(self.of(file.name)) if v.stat == file.stat and v.uri == file.uri), None)

    def decide(self, file: InputFile, *, songs_changed: bool = False) -> Decision:
        """Say what to do with a listed file whose etag is known."""
        versions = self.of(file.name)
        if not versions or any(v.status is Status.PENDING for v in versions):
            return Decision.NEW
        accepted = self.accepted(file.name)
        if accepted is not None and accepted.etag == file.etag:
            return Decision.ALREADY_STAGED
        if accepted is not None and file.modified_at < accepted.modified_at:
            return Decision.SUPERSEDED
        same = [v for v in versions if v.etag == file.etag and v.status is not Status.REPLACED]
        last = same[-1] if same else None
        if last is not None and last.status is Status.WITHDRAWN:
            return Decision.STILL_WITHDRAWN
        if last is not None and last.status is Status.REJECTED:
            retry = last.reason == "too_many_waiting" and songs_changed
            return Decision.NEW if retry else Decision.STILL_REJECTED
        return Decision.NEW

    def open(self, file: InputFile, run_id: str, now: datetime) -> FileVersion:
        """Make a pending version of a file: it keeps its file_id, or gets the next free one."""
        versions = self.of(file.name)
        file_id = versions[0].file_id if versions else self._next_file_id()
        pending = FileVersion(
            file_id=file_id,
            version=versions[-1].version + 1 if versions else 1,
            dataset=file.dataset,
            name=file.name,
            uri=file.uri,
            etag=file.etag or "",
            size=file.size,
            modified_at=file.modified_at,
            stat=file.stat,
            status=Status.PENDING,
            run_id=run_id,
            updated_at=now,
        )
        self._by_name.setdefault(file.name, []).append(pending)
        return pending

    def put(self, *changed: FileVersion) -> None:
        """Replace versions by new states of them."""
        for version in changed:
            versions = self._by_name[version.name]
            versions[[v.version for v in versions].index(version.version)] = version

    def settle(self, version: FileVersion) -> None:
        """Record a version's final state; what it takes the place of is told so."""
        self.put(version)
        for other in list(self.of(version.name)):
            if other.version == version.version:
                continue
            if other.status is Status.PENDING:
                self.put(replace(other, status=Status.ABANDONED, updated_at=version.updated_at))
            elif other.status is Status.ACCEPTED and version.status is Status.ACCEPTED:
                self.put(replace(other, status=Status.REPLACED, updated_at=version.updated_at))

    def _next_file_id(self) -> int:
        return 1 + max((versions[0].file_id for versions in self._by_name.values()), default=0)


def load_ledger(start_spark: Callable[[], SparkSession], table: Table) -> Ledger:
    """Read the ledger; an empty one where there is no table yet.

    Beside the table lies a copy of its rows that says of which commit it is: if that is the newest one, Spark need not
    be started for it.
    """
    newest = table.newest_commit()
    if newest is None:
        return Ledger()
    copied = _read_copy(table, newest)
    if copied is None:
        copied = [_from_row(row.asDict()) for row in table.read(start_spark()).collect()]
    ledger = Ledger(copied)
    ledger.saved = {version.name: ledger.of(version.name).copy() for version in copied}
    return ledger


def save_ledger(
    spark: SparkSession, table: Table, ledger: Ledger, names: Iterable[str], metadata: dict[str, Any]
) -> None:
    """Write all versions of the named files, in one commit, and then the copy of all rows (see `load_ledger`)."""
    versions = [version for name in names for version in ledger.of(name)]
    if not versions:
        return
    frame = local_frame(spark, map(_to_row, versions), LEDGER_SCHEMA)
    ids = ", ".join(str(file_id) for file_id in sorted({version.file_id for version in versions}))
    version = table.replace(frame, f"file_id IN ({ids})", metadata)
    ledger.saved.update((saved.name, ledger.of(saved.name).copy()) for saved in versions)
    _write_copy(table, ledger, table.commit(version))


def _copy_uri(table: Table) -> str:
    return f"{table.uri}_copy.json.gz"


def _read_copy(table: Table, newest: Commit) -> list[FileVersion] | None:
    data = storage_for(table.uri).read(_copy_uri(table))
    if data is None:
        return None
    try:
        content = json.loads(gzip.decompress(data))
    except (OSError, EOFError, zlib.error, ValueError):
        warn("the copy of the ledger is damaged; reading the table", file=_copy_uri(table))
        return None
    if content["commit"] != _identity(newest):
        return None
    return [_from_row(dict(zip(_COLUMNS, row, strict=True))) for row in content["rows"]]


def _write_copy(table: Table, ledger: Ledger, newest: Commit) -> None:
    rows = [_to_row(version) for versions in ledger.saved.values() for version in versions]
    content = {"commit": _identity(newest), "rows": rows}
    packed = gzip.compress(json.dumps(content, default=_iso).encode(), 1)
    storage_for(table.uri).write(_copy_uri(table), packed)


def _identity(commit: Commit) -> dict[str, Any]:
    """What no other commit has: the names of the files that it added, which are random, beside its version."""
    added = sorted(action["add"]["path"] for action in commit.actions if "add" in action)
    return {"version": commit.version, "added": added}


def _iso(moment: datetime) -> str:
    return moment.isoformat()


def _to_row(version: FileVersion) -> tuple[Any, ...]:
    fields = {**version.__dict__, "quarantined_by_reason": json.dumps(dict(version.quarantined_by_reason))}
    return tuple(str(fields[name]) if name in {"dataset", "status"} else fields[name] for name in _COLUMNS)


def _from_row(fields: dict[str, Any]) -> FileVersion:
    for name in ("modified_at", "updated_at"):
        if isinstance(fields[name], str):
            fields[name] = datetime.fromisoformat(fields[name])
        fields[name] = fields[name].replace(tzinfo=UTC) if fields[name].tzinfo is None else fields[name]
    fields["dataset"], fields["status"] = Dataset(fields["dataset"]), Status(fields["status"])
    fields["quarantined_by_reason"] = json.loads(fields["quarantined_by_reason"])
    return FileVersion(**fields)
