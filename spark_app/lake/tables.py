"""Where everything lies below `--lake`, how its files are written, and the check that a folder is a lake of ours."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kpi_common.contracts import Dataset
from kpi_common.files import join, storage_for
from spark_app.config.settings import Settings
from spark_app.errors import UsageError
from spark_app.lake.delta_tables import Table

_MARKER = "lake.json"
_SCRATCH = "tmp"
# 1: without `lake_id` and `source_time_zone`, which a lake then gets when it is opened.
_SCHEMA_VERSION = 2
_MANY_BYTES = 64_000_000  # a million songs; beside more, as many bytes of listens are few
_HOW_TO_CHANGE_ZONE = {
    "kpi_time_zone": "dates can't be cut anew in place: keep the zone, or build another lake from the files",
    "source_time_zone": "what is staged was read in that zone: keep it, or build another lake from the files",
}


def _nobody_else() -> None:
    """No lock: for reading only, and for tests."""


@dataclass(frozen=True)
class Lake:
    """The tables and files of one lake.

    `ensure_held` raises LockLostError if another run holds the lake by now: it is called before every Delta commit and
    every write of a file. A process may still fall asleep between that and the write itself. So a file that two runs
    could write goes through `write_if`, which also fails if anybody wrote it since it was read.
    """

    uri: str
    ensure_held: Callable[[], None] = _nobody_else

    def staged(self, dataset: Dataset) -> Table:
        """Valid rows of all accepted files of a dataset."""
        return self._table("staged", dataset)

    @property
    def quarantine(self) -> Table:
        """Rows that were set aside, with raw text and reasons."""
        return self._table("quarantine", "records")

    def kpi(self, name: str) -> Table:
        """One KPI table."""
        return self._table("kpis", name)

    @property
    def ingested_files(self) -> Table:
        """The ledger of files of an earlier release, which is read once; now it is `ops/files/`."""
        return self._table("ops", "ingested_files")

    @property
    def progress(self) -> Table:
        """Up to which versions KPIs were made, of an earlier release, read once; now in `ops/state.json`."""
        return self._table("ops", "progress")

    @property
    def exports(self) -> str:
        """Folder of all exports."""
        return join(self.uri, "exports")

    @property
    def scratch(self) -> str:
        """Folder of what a run keeps in files while it runs, on a cluster."""
        return join(self.uri, _SCRATCH)

    def empty_scratch(self) -> None:
        """Delete what this run, or one that died, kept in files.

        Raises:
            LockLostError: another run holds the lake by now.
        """
        if next(storage_for(self.uri).list_files(self.scratch), None) is not None:
            self.delete_folder(_SCRATCH)

    @property
    def lake_id(self) -> str:
        """What tells this lake from any other; there once `mark_lake` was called."""
        return str(_read_marker(self.uri)["lake_id"])

    def read_tagged(self, path: str) -> tuple[bytes | None, str | None]:
        """Return a file's content and its tag for `write_if`; twice None if there is no file."""
        return storage_for(self.uri).read_tagged(join(self.uri, path)) or (None, None)

    def write(self, path: str, data: bytes) -> None:
        """Write a file whose name no other run uses.

        Raises:
            LockLostError: another run holds the lake by now.
        """
        self.ensure_held()
        storage_for(self.uri).write(join(self.uri, path), data)

    def write_if(self, path: str, data: bytes, tag: str | None) -> str | None:
        """Write a file if it still has this tag (None: if there is no file).

        Returns:
            The new tag; None if another run was quicker.

        Raises:
            LockLostError: another run holds the lake by now.
        """
        self.ensure_held()
        storage, uri = storage_for(self.uri), join(self.uri, path)
        written = storage.write_if(uri, data, tag)
        if written is None:  # or it was done, its reply was lost, and the request was sent again
            content, written = self.read_tagged(path)
            return written if content == data else None
        return written

    def delete_folder(self, path: str) -> None:
        """Delete a folder with all that is in it.

        Raises:
            LockLostError: another run holds the lake by now.
        """
        self.ensure_held()
        storage_for(self.uri).delete_folder(join(self.uri, path))

    def reference_bytes(self) -> int:
        """Return how many bytes the staged songs and users take, with what older versions of them still take."""
        return sum(self.staged(dataset).stored_bytes() for dataset in (Dataset.SONGS, Dataset.USERS))

    def many_references(self, listens_bytes: int, reference_bytes: int) -> bool:
        """Whether songs and users are so many, and listens so few, that those alone are looked at that listens name."""
        return listens_bytes < _MANY_BYTES < reference_bytes

    def _table(self, *parts: str) -> Table:
        return Table(join(self.uri, *parts), self.ensure_held)


def check_lake(uri: str, settings: Settings) -> None:
    """Refuse a folder that is no lake, a lake of a newer release, or one made with other time zones.

    An empty or missing folder is fine.

    Raises:
        UsageError: with what to do.
    """
    marker = _read_marker(uri)
    if not marker:
        ours = ("ops/", "runs/", f".{_MARKER}.")
        names = (stored.relative for stored in storage_for(uri).list_files(uri))
        stranger = next((name for name in names if not name.startswith(ours)), None)
        if stranger is not None:
            raise UsageError(
                f"--lake {uri}: this folder is not empty and is not a lake of this application (it holds "
                f"{stranger}, but no {_MARKER}); name an empty or new folder"
            )
    for setting, what_to_do in _HOW_TO_CHANGE_ZONE.items():
        recorded, wanted = marker.get(setting), getattr(settings, setting)
        if recorded not in {None, wanted}:
            raise UsageError(
                f"--lake {uri}: was made with {setting} {recorded}, but the setting says {wanted}; {what_to_do}"
            )


def mark_lake(lake: Lake, settings: Settings) -> None:
    """Note in a new lake, or one of an earlier release, its id and what it was made with; check it otherwise.

    Raises:
        UsageError: see `check_lake`.
        LockLostError: another run holds the lake by now.
    """
    check_lake(lake.uri, settings)
    data, tag = lake.read_tagged(_MARKER)
    if _parse_marker(lake.uri, data).get("schema_version") == _SCHEMA_VERSION:
        return
    zones = {setting: getattr(settings, setting) for setting in _HOW_TO_CHANGE_ZONE}
    marker = {"schema_version": _SCHEMA_VERSION, "lake_id": uuid.uuid4().hex, **zones}
    if lake.write_if(_MARKER, json.dumps(marker, indent=2).encode(), tag) is None:
        mark_lake(lake, settings)  # a run that had slept was quicker: what it noted counts


def _read_marker(uri: str) -> Mapping[str, Any]:
    return _parse_marker(uri, storage_for(uri).read(join(uri, _MARKER)))


def _parse_marker(uri: str, data: bytes | None) -> Mapping[str, Any]:
    """Return the fields of lake.json; none where there is no file."""
    if data is None:
        return {}
    where = join(uri, _MARKER)
    try:
        marker: dict[str, Any] = json.loads(data)
        version = int(marker["schema_version"])
        if version > _SCHEMA_VERSION:
            raise UsageError(
                f"{where}: has schema_version {version}, made by a newer release of this application; this one knows "
                f"up to {_SCHEMA_VERSION}: use that release or a newer one"
            )
        needed = ["kpi_time_zone"] + (["source_time_zone", "lake_id"] if version == _SCHEMA_VERSION else [])
        if not all(isinstance(marker[name], str) and marker[name] for name in needed):
            raise ValueError(needed)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{where}: can't be read; restore the file, or name another lake") from error
    return marker
