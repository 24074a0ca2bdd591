"""The ledger of files: what became of each version of each file. It alone decides whether a file's rows count.

A file keeps its `file_id` for ever; each content it comes with is a `version` of it. The ledger lies in `ops/files/`,
as shards by a hash of the file's name: a run reads and writes only those of the files that it has at hand. Versions
that are pending or being withdrawn are not in it but in `ops/state.json`, until they are settled.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from enum import StrEnum
from typing import TypeVar

from pydantic import TypeAdapter

from kpi_common.contracts import Dataset
from kpi_common.files import join, storage_for
from spark_app.run.files import FileVersion, InputFile, Status
from spark_app.run.state import GuardedFile, StateFile, parsed

_FOLDER = "ops/files"
SHARDS = 1024  # with a million files, one holds some 1,000 of them, about 500 KB
_REQUESTS_AT_ONCE = 16

Shard = dict[str, list[FileVersion]]  # versions by name, the oldest first
_SHARD: TypeAdapter[Shard] = TypeAdapter(Shard)
_T = TypeVar("_T")
_R = TypeVar("_R")


class Decision(StrEnum):
    """What a run does with a listed file."""

    NEW = "new"
    ALREADY_STAGED = "already_staged"
    STILL_REJECTED = "rejected_before"
    STILL_WITHDRAWN = "withdrawn_before"
    SUPERSEDED = "superseded"


class Ledger:
    """The ledger of some files in memory: decisions, no reading or writing."""

    def __init__(self, versions: Iterable[FileVersion] = (), next_file_id: int = 1) -> None:
        self.next_file_id = next_file_id
        self._shards: dict[int, Shard] = defaultdict(dict)
        for version in sorted(versions, key=lambda v: (v.file_id, v.version)):
            self._versions(version.name).append(version)

    def add(self, number: int, shard: Shard) -> None:
        """Add what a shard holds."""
        self._shards[number] = shard

    def shard(self, number: int) -> Shard:
        """All versions that belong into a shard."""
        return self._shards[number]

    @property
    def all(self) -> list[FileVersion]:
        """All file versions, by file and version."""
        found = [v for shard in self._shards.values() for versions in shard.values() for v in versions]
        return sorted(found, key=lambda v: (v.file_id, v.version))

    def of(self, name: str) -> list[FileVersion]:
        """All versions of one file, oldest first."""
        return self._shards[shard_of(name)].get(name, [])

    def accepted(self, name: str) -> FileVersion | None:
        """The version of a file whose rows count, if any."""
        return next((v for v in self.of(name) if v.status is Status.ACCEPTED), None)

    def etag_by_stat(self, file: InputFile) -> str | None:
        """Return the etag of a local file that was not touched since the ledger saw it."""
        if file.stat is None:
            return None
        return next((v.etag for v in reversed(self.of(file.name)) if v.stat == file.stat and v.uri == file.uri), None)

    def decide(self, file: InputFile, *, songs_changed: bool = False) -> Decision:
        """Say what to do with a listed file whose etag is known."""
        accepted = self.accepted(file.name)
        if accepted is not None and accepted.etag == file.etag:
            return Decision.ALREADY_STAGED
        if accepted is not None and file.modified_at < accepted.modified_at:
            return Decision.SUPERSEDED
        last = next((v for v in reversed(self.of(file.name)) if v.etag == file.etag), None)
        if last is not None and last.status is Status.WITHDRAWN:
            return Decision.STILL_WITHDRAWN
        if last is not None and last.status is Status.REJECTED:
            retry = last.reason == "too_many_waiting" and songs_changed
            return Decision.NEW if retry else Decision.STILL_REJECTED
        return Decision.NEW

    def open(self, file: InputFile, run_id: str, now: datetime) -> FileVersion:
        """Make a pending version of a file: it keeps its file_id, or gets the next free one."""
        versions = self.of(file.name)
        if not versions:
            self.next_file_id += 1
        return FileVersion(
            file_id=versions[0].file_id if versions else self.next_file_id - 1,
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

    def settle(self, version: FileVersion) -> None:
        """Record what became of a version; one that is accepted takes the place of the one before."""
        versions = self._versions(version.name)
        for position, other in enumerate(versions):
            if other.status is Status.ACCEPTED and version.status is Status.ACCEPTED:
                versions[position] = replace(other, status=Status.REPLACED, updated_at=version.updated_at)
        versions[:] = [*(v for v in versions if v.version != version.version), version]
        versions.sort(key=lambda v: v.version)

    def _versions(self, name: str) -> list[FileVersion]:
        return self._shards[shard_of(name)].setdefault(name, [])


class LedgerFolder:
    """The shards of a lake's ledger, below `ops/files/`, and what `ops/state.json` says of files."""

    def __init__(self, state: StateFile) -> None:
        self._state, self._lake = state, state.lake
        self._files: dict[int, GuardedFile] = {}

    def read(self, names: Iterable[str]) -> Ledger:
        """Read what is known of these files."""
        return self._read({shard_of(name) for name in names})

    def read_all(self) -> Ledger:
        """Read what is known of all files."""
        stored = storage_for(self._lake.uri).list_files(join(self._lake.uri, _FOLDER))
        stems = (file.relative.removesuffix(".json") for file in stored)
        return self._read({int(stem) for stem in stems if stem.isdigit()})

    def settle(self, ledger: Ledger, versions: Sequence[FileVersion], step: str) -> None:
        """Write what became of these versions: the shards, each whole or as it was, and then that none is open.

        Raises:
            LockLostError: another run has written meanwhile.
        """
        for version in versions:
            ledger.settle(version)
        self.write(ledger, [version.name for version in versions])
        before = self._state.value.newest_accepted
        newest = {**before, **{d: max(t, before.get(d, t)) for d, t in newest_accepted(versions).items()}}
        withdrawn = [version for version in versions if version.status is Status.WITHDRAWN]
        if any(version.modified_at >= newest.get(version.dataset, version.modified_at) for version in withdrawn):
            newest = newest_accepted(self.read_all().all)
        self._state.save(step, open=(), newest_accepted=newest, next_file_id=ledger.next_file_id)

    def write(self, ledger: Ledger, names: Iterable[str]) -> None:
        """Write all that is known of these files, which were read before."""

        def write(number: int) -> None:
            self._file(number).write(_SHARD.dump_json(ledger.shard(number)))

        _for_each(write, sorted({shard_of(name) for name in names}))

    def _read(self, numbers: set[int]) -> Ledger:
        ledger = Ledger(next_file_id=self._state.value.next_file_id)
        for number, data in _for_each(lambda number: (number, self._file(number).read()), sorted(numbers)):
            if data is not None:
                ledger.add(number, parsed(_SHARD, data, self._file(number).uri))
        return ledger

    def _file(self, number: int) -> GuardedFile:
        return self._files.setdefault(number, GuardedFile(self._lake, f"{_FOLDER}/{number:04}.json"))


def shard_of(name: str) -> int:
    """Return the number of the shard that a file's versions are in."""
    return zlib.crc32(name.encode()) % SHARDS


def newest_accepted(versions: Iterable[FileVersion]) -> dict[Dataset, datetime]:
    """By dataset, the modification time of the newest of these versions that is accepted."""
    newest: dict[Dataset, datetime] = {}
    for version in versions:
        if version.status is Status.ACCEPTED:
            newest[version.dataset] = max(version.modified_at, newest.get(version.dataset, version.modified_at))
    return newest


def _for_each(request: Callable[[_T], _R], items: Iterable[_T]) -> list[_R]:
    """Make requests side by side: in S3, a thousand shards one after another would take half a minute."""
    with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
        return list(pool.map(request, items))
