"""The lake's state that only the application reads: `ops/state.json`, one small file that each run replaces as a whole.

It holds what a run must know before it looks at any file: what a dead run left half done, the next file's number, and
from which versions of the staged tables the KPIs were made. What became of each file is in `ops/files/` (see
`ingest.file_ledger`); of these shards, a run reads and writes only those of the files that it has at hand.

Order of writes: judging → open (files that are being staged, and the next number) → staged tables → shards → settle →
KPI tables → progress. Each one is whole or not there, and is only done on top of what this run has read or written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from kpi_common.contracts import Dataset
from kpi_common.files import join
from spark_app.errors import LockLostError, UsageError
from spark_app.lake.tables import Lake
from spark_app.run.files import FileVersion

_TRIES = 3
_T = TypeVar("_T")


@dataclass(frozen=True)
class Progress:
    """Versions of the staged tables that the KPIs were made from; -1 is "before the first"."""

    streams_version: int = -1
    songs_version: int = -1
    users_version: int = -1

    def of(self, dataset: Dataset) -> int:
        """Version of one staged table."""
        return int(getattr(self, f"{dataset}_version"))


@dataclass(frozen=True)
class TrialGroup:
    """Files that were being judged when a run died, by name, with their content; `deaths` of this very group."""

    files: Mapping[str, str]
    deaths: int = 0


@dataclass(frozen=True)
class Rewriting:
    """A file of the input that is being written again with some rows less: its etag, and that of its new content."""

    name: str
    uri: str
    etag: str
    new_content: str


@dataclass(frozen=True)
class LakeState:
    """The content of `ops/state.json`; each file of `open` is pending or withdrawing.

    `newest_accepted` is, by dataset, the modification time of the newest file whose rows count. `judging` are the files
    that are being judged; `suspects` are to be tried apart from others (see `ingest.trial`). `rewriting` is
    the one file that users are being taken out of (see `forget`).
    """

    schema_version: int = 1
    next_file_id: int = 1
    progress: Progress = Progress()
    newest_accepted: Mapping[Dataset, datetime] = field(default_factory=dict)
    open: tuple[FileVersion, ...] = ()
    judging: TrialGroup | None = None
    suspects: tuple[TrialGroup, ...] = ()
    rewriting: Rewriting | None = None
    run_id: str = ""
    step: str = ""


_STATE: TypeAdapter[LakeState] = TypeAdapter(LakeState)


class GuardedFile:
    """A file of a lake that is replaced only if nobody else did since it was read or written here."""

    def __init__(self, lake: Lake, path: str) -> None:
        self._lake, self._path = lake, path
        self._tag: str | None = None

    @property
    def uri(self) -> str:
        """Where it lies."""
        return join(self._lake.uri, self._path)

    def read(self) -> bytes | None:
        """Return its bytes, or None where there is no such file."""
        data, self._tag = self._lake.read_tagged(self._path)
        return data

    def write(self, data: bytes) -> None:
        """Replace it.

        Raises:
            LockLostError: the lake's lock is lost, or another run has written the file.
        """
        for _ in range(_TRIES):
            tag = self._lake.write_if(self._path, data, self._tag)
            if tag is not None:
                self._tag = tag
                return
            if self._lake.read_tagged(self._path)[1] != self._tag:
                break
        raise LockLostError(f"{self.uri}: was written by another run meanwhile; nothing more is written")


class StateFile:
    """`ops/state.json` of a lake, as one run reads and writes it: `value` is what it holds."""

    def __init__(self, lake: Lake, run_id: str) -> None:
        self.lake, self._run_id = lake, run_id
        self._file = GuardedFile(lake, "ops/state.json")
        data = self._file.read()
        self.exists = data is not None
        self.value = LakeState() if data is None else self._parse(data)

    def save(self, step: str, **changes: Any) -> None:
        """Replace the named fields, and say which step of the run did."""
        value = replace(self.value, run_id=self._run_id, step=step, **changes)
        self._file.write(_STATE.dump_json(value, indent=1))
        self.value, self.exists = value, True

    def _parse(self, data: bytes) -> LakeState:
        value = parsed(_STATE, data, self._file.uri)
        if value.schema_version != LakeState().schema_version:
            raise UsageError(f"{self._file.uri}: was written by a newer release; use that one")
        return value


def parsed(form: TypeAdapter[_T], data: bytes, uri: str) -> _T:
    """Read JSON that the application wrote below `ops/`.

    Raises:
        UsageError: it has another form; names the file and the first field.
    """
    try:
        return form.validate_json(data)
    except ValidationError as error:
        problem = error.errors()[0]
        raise UsageError(
            f"{uri}: can't be read ({'.'.join(map(str, problem['loc']))}: {problem['msg']}); "
            "restore the file, or build another lake from the files"
        ) from error
