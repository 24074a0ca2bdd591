"""Where everything lies below `--lake`, and the check that a folder is a lake of ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from kpi_common.files import join, normalise, storage_for
from spark_app.config.contracts import Dataset
from spark_app.config.settings import Settings
from spark_app.errors import UsageError
from spark_app.lake.delta_tables import Table

_MARKER = "lake.json"


@dataclass(frozen=True)
class Lake:
    """The tables and files of one lake. `before_commit` guards every Delta commit (see `Table`)."""

    uri: str
    before_commit: Callable[[], None] | None = None

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
        """The ledger of files."""
        return self._table("ops", "ingested_files")

    @property
    def progress(self) -> Table:
        """Up to which versions of the staged tables the KPIs were made."""
        return self._table("ops", "progress")

    def run_folder(self, run_id: str) -> str:
        """Folder of a run's result."""
        return join(self.uri, "runs", run_id)

    @property
    def exports(self) -> str:
        """Folder of all exports."""
        return join(self.uri, "exports")

    def _table(self, *parts: str) -> Table:
        return Table(join(self.uri, *parts), self.before_commit)


def check_lake(uri: str, settings: Settings) -> None:
    """Refuse a folder that is no lake, or a lake made with another KPI zone; an empty or missing folder is fine.

    Raises:
        UsageError: with what to do.
    """
    storage = storage_for(uri)
    data = storage.read(join(uri, _MARKER))
    if data is None:
        stranger = next(storage.list_files(uri), None)
        if stranger is not None and not stranger.relative.startswith(("ops/", "runs/")):
            raise UsageError(
                f"--lake {uri}: this folder is not empty and is not a lake of this application (it holds "
                f"{stranger.relative}, but no {_MARKER}); name an empty or new folder"
            )
        return
    try:
        zone = json.loads(data)["kpi_time_zone"]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{join(uri, _MARKER)}: can't be read; restore the file, or name another lake") from error
    if zone != settings.kpi_time_zone:
        raise UsageError(
            f"--lake {uri}: was made with kpi_time_zone {zone}, but the setting says {settings.kpi_time_zone}; "
            "dates can't be cut anew in place: keep the zone, or build another lake from the files"
        )


def mark_lake(uri: str, settings: Settings) -> None:
    """Note in a new lake what it was made with."""
    storage = storage_for(uri)
    marker = {"schema_version": 1, "kpi_time_zone": settings.kpi_time_zone}
    if storage.read(join(uri, _MARKER)) is None:
        storage.write(join(uri, _MARKER), json.dumps(marker, indent=2).encode())


def normalise_lake(uri: str) -> str:
    """Return the lake's URI in the form that paths are built from."""
    return normalise(uri)
