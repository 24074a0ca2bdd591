"""Runs over a folder of CSV files, one after the other, as the application is asked to do them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from tests.oracle import kpis, zones
from tests.oracle.fates import FileFate, Known, Limits, SourceFile, judge_songs, judge_streams, judge_users
from tests.oracle.rules import Listen, Song, User

Version = tuple[int, bytes]  # modification time, name: the newer is the greater


@dataclass(frozen=True)
class Outcome:
    """`files` holds the new files by name; `tables` all KPI rows after the run, by the lake's table names."""

    exit_code: int
    files: dict[str, FileFate]
    tables: dict[str, kpis.Rows]


class Oracle:
    """A lake in memory. Each `run` takes the new and changed files of a folder."""

    def __init__(self, source_zone: str = "UTC", kpi_zone: str = "UTC", limits: Limits | None = None) -> None:
        self._source_zone = ZoneInfo(source_zone)
        self._kpi_zone = ZoneInfo(kpi_zone)
        self._limits = limits or Limits()
        self._seen: dict[str, str] = {}
        self._refused_for_waiting: set[str] = set()
        self._listens: dict[str, list[Listen]] = {}
        self._songs: dict[str, tuple[Version, list[Song]]] = {}
        self._users: dict[str, tuple[int, list[User]]] = {}

    def run(self, directory: Path, modified: Mapping[str, datetime] | None = None) -> Outcome:
        """`modified` overrides the modification times that the disk tells, by `streams/a.csv`."""
        found = _find(directory, modified or {})
        new = [file for file in found if self._is_new(file)]
        fates: dict[str, FileFate] = {}
        for file in new:
            if file.dataset == "songs":
                fate, songs = judge_songs(file, self._limits)
                if fate.outcome == "accepted":
                    self._songs[file.name] = (_version(file), songs)
                fates[file.name] = fate
            elif file.dataset == "users":
                fate, users = judge_users(file, self._limits)
                if fate.outcome == "accepted":
                    self._users[file.name] = (file.modified, users)
                fates[file.name] = fate
        if not self._songs or not self._users:
            return Outcome(3, fates, {name: [] for name in kpis.COLUMNS})
        known = self._known()
        if any(fate.dataset == "songs" and fate.outcome == "accepted" for fate in fates.values()):
            new += [file for file in found if file.name in self._refused_for_waiting and file not in new]
        for file in new:
            if file.dataset == "streams":
                fates[file.name] = self._take_streams(file, known)
        rejected = sum(fate.outcome == "rejected" for fate in fates.values())
        return Outcome(3 if fates and rejected == len(fates) else 0, fates, self.tables())

    def withdraw(self, name: str) -> None:
        """Forget a file's rows, though not that its content was seen."""
        for files in (self._listens, self._songs, self._users):
            files.pop(name, None)

    def retry(self, name: str) -> None:
        """Let the next run take the file as if it were new."""
        self._seen.pop(name, None)

    def tables(self) -> dict[str, kpis.Rows]:
        listens = [listen for file in self._listens.values() for listen in file]
        return kpis.compute(listens, self._current_songs(), self._countries(), self._kpi_zone)

    def _take_streams(self, file: SourceFile, known: Known) -> FileFate:
        fate, listens = judge_streams(file, known, self._source_zone, self._limits)
        self._refused_for_waiting.discard(file.name)
        if fate.reason == "too_many_waiting":
            self._refused_for_waiting.add(file.name)  # judged again when songs come
        if fate.outcome == "rejected":
            return fate
        before = self._listens.get(file.name)
        if before is not None and not set(before) & set(listens):
            return FileFate(file.dataset, file.name, "rejected", "name_reused")
        self._listens[file.name] = listens
        return fate

    def _is_new(self, file: SourceFile) -> bool:
        checksum = hashlib.sha256(file.content).hexdigest()
        is_new = self._seen.get(file.name) != checksum
        self._seen[file.name] = checksum
        return is_new

    def _known(self) -> Known:
        tracks = frozenset(song.track_id for song in self._current_songs())
        return Known(tracks, frozenset(user.user_id for _, users in self._users.values() for user in users))

    def _countries(self) -> dict[int, str]:
        """Each user's country as in the newest users file; of files of one time, the first."""
        rows = [(modified, user) for modified, users in self._users.values() for user in users]
        rows.sort(key=lambda row: (row[1].country == "", row[1].country.encode()))
        rows.sort(key=lambda row: row[0], reverse=True)
        countries: dict[int, str] = {}
        for _, user in rows:
            countries.setdefault(user.user_id, user.country)
        return {user: country for user, country in countries.items() if country}

    def _current_songs(self) -> list[Song]:
        """Each track's rows as in the newest songs file that names it."""
        newest: dict[str, Version] = {}
        for version, songs in self._songs.values():
            for song in songs:
                newest[song.track_id] = max(version, newest.get(song.track_id, version))
        return [song for version, songs in self._songs.values() for song in songs if newest[song.track_id] == version]


def _version(file: SourceFile) -> Version:
    return file.modified, file.name.encode()


def _find(directory: Path, modified: Mapping[str, datetime]) -> list[SourceFile]:
    files = []
    for dataset in ("songs", "users", "streams"):
        for path in sorted((directory / dataset).rglob("*")):
            relative = path.relative_to(directory / dataset)
            hidden = path.name.startswith(".") or any(folder.startswith(("_", ".")) for folder in relative.parts[:-1])
            if hidden or not path.name.endswith((".csv", ".csv.gz")) or not path.is_file():
                continue
            name = f"{dataset}/{relative.as_posix()}"
            at = zones.micros(modified[name]) if name in modified else path.stat().st_mtime_ns // 1000
            files.append(SourceFile(dataset, name, path.read_bytes(), at))
    return files
