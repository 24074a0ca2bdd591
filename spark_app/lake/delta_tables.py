"""Delta tables by path: read at a version, replace a part in one commit, and read what the log says of changes.

The log's JSON files are read as the Delta protocol describes them, without starting a Spark job.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Any
from urllib.parse import unquote

from pyspark.sql import DataFrame, SparkSession

from kpi_common.files import as_glob, join, storage_for
from kpi_common.log import warn
from spark_app.errors import StorageError, UsageError
from spark_app.spark.local_frames import local_frame

_LOG = "_delta_log"
_WRITER = "music-streaming-kpis"  # to whom the transaction numbers of a log belong
# In a table's folder while its first commit is being made: without a log, the files there are a killed job's.
_FIRST_WRITE = "_first_write"
# Lists of data files by which engines that don't know Delta read a table, kept by Delta itself with each commit.
MANIFESTS = "_symlink_format_manifest"
_KEEPS_MANIFESTS = "delta.compatibility.symlinkFormatManifest.enabled"
_RETENTION_CHECK = "spark.databricks.delta.retentionDurationCheck.enabled"


def of_dates(dates: Iterable[str]) -> str:
    """The condition that a row's listen_date is one of these, of which there is at least one."""
    return f"listen_date IN ({', '.join(f'DATE{date!r}' for date in sorted(dates))})"


class LogGoneError(Exception):
    """The log no longer holds a version that was asked for."""


@dataclass(frozen=True)
class Commit:
    """One commit of a table's log: its actions, as the protocol names them."""

    version: int
    actions: tuple[dict[str, Any], ...]

    @cached_property
    def user_metadata(self) -> dict[str, Any]:
        """What the writer said of the commit (run id, step), or nothing."""
        for action in self.actions:
            text = action.get("commitInfo", {}).get("userMetadata")
            if text:
                try:
                    fields = json.loads(text)
                except ValueError:
                    return {}
                return fields if isinstance(fields, dict) else {}
        return {}

    @property
    def changes_data(self) -> bool:
        """Whether data came or went (not: was only compacted)."""
        return any(action.get(kind, {}).get("dataChange") for action in self.actions for kind in ("add", "remove"))

    def changed_partitions(self, column: str, *, only_removed: bool = False) -> set[str]:
        """Values of a partition column in whose partitions data came or went (not: was only compacted)."""
        kinds = ("remove",) if only_removed else ("add", "remove")
        changes = [action[kind] for action in self.actions for kind in kinds if kind in action]
        return {change["partitionValues"][column] for change in changes if change.get("dataChange")}


class Table:
    """One Delta table at a path. `before_commit` is called before each commit: it raises if the lock is lost."""

    def __init__(self, uri: str, before_commit: Callable[[], None] = lambda: None) -> None:
        self.uri = uri
        self._before_commit = before_commit

    def version(self) -> int:
        """Return the newest version, or -1 if there is no table, or only what a killed first write left.

        Raises:
            UsageError: the folder holds files but no Delta log.
        """
        newest = max(self._logged_versions(), default=-1)
        if newest >= 0:
            return newest
        storage = storage_for(self.uri)
        if next(storage.list_files(self.uri), None) is not None and storage.read(self._first_write) is None:
            raise UsageError(f"{self.uri}: this folder holds files, but is no Delta table (no {_LOG}/*.json)")
        return newest

    def stored_bytes(self) -> int:
        """Return how many bytes lie in the table's folder, for whatever version."""
        return sum(stored.size for stored in storage_for(self.uri).list_files(self.uri))

    def read(self, spark: SparkSession, version: int | None = None) -> DataFrame:
        """Read the table, pinned at a version if one is given."""
        reader = spark.read.format("delta")
        if version is not None:
            reader = reader.option("versionAsOf", version)
        return reader.load(self.uri)

    def read_added(self, spark: SparkSession, commit: Commit, columns: Mapping[str, str]) -> DataFrame:
        """Read columns (name: type) of just the data files that a commit added; partition columns are not in them.

        So rows that were just written are counted at the cost of these rows, however large the table and its log are.
        What a commit took away is not looked at: that is Delta's promise for the commit as a whole.
        """
        added = [action["add"] for action in commit.actions if "add" in action]
        if any(file.get("deletionVector") for file in added):
            return self.read(spark, commit.version).select(*columns)
        schema = ", ".join(f"{name} {kind}" for name, kind in columns.items())
        files = [as_glob(join(self.uri, unquote(file["path"]))) for file in added]
        return spark.read.schema(schema).parquet(*files) if files else local_frame(spark, [], schema)

    def replace(
        self,
        frame: DataFrame,
        where: str | None,
        metadata: dict[str, Any],
        partition_by: tuple[str, ...] = (),
    ) -> int:
        """Put a frame in the place of the rows for which `where` holds (None: of all), in one commit.

        Each commit bears a mark of its own (`commit_id`): by it alone it is found in the log, as another run may have
        committed since, and as its reply may have been lost although it was done. And it bears the number of the
        version that it makes, as Delta's transaction number: Delta leaves out a write whose number is not above the
        newest one. So a run that slept since its look at the lock changes nothing where its successor has written.

        Returns:
            The version of this commit. There is one even where nothing changes.

        Raises:
            LockLostError: another run holds the lake, before this commit or since.
        """
        before, commit_id = self.version(), uuid.uuid4().hex
        self._before_commit()
        user_metadata = json.dumps({**metadata, "commit_id": commit_id})
        writer = frame.write.format("delta").option("userMetadata", user_metadata)
        if partition_by:
            writer = writer.partitionBy(*partition_by)
        if before < 0:  # to overwrite would take away what another run may have written by now
            storage_for(self.uri).write(self._first_write, user_metadata.encode())
            writer = writer.mode("error")
        else:
            # A table of the release before gets the columns that are new.
            writer = writer.mode("overwrite").option("mergeSchema", "true")
            writer = writer.option("txnAppId", _WRITER).option("txnVersion", before + 1)
            writer = writer if where is None else writer.option("replaceWhere", where)
        lost_reply: Exception | None = None
        try:
            writer.save(self.uri)
        except Exception as error:  # noqa: BLE001 (whatever it is, the log says whether the commit was done)
            lost_reply = error
        version = self._version_of(commit_id, before)
        if version is None:
            self._before_commit()  # if the lake is another run's by now, that is the cause
            raise lost_reply or StorageError(f"{self.uri}: the log doesn't hold the commit that was just made")
        if lost_reply is not None:
            warn("a commit was done although it reported failure", table=self.uri, version=version)
        if before < 0 and (marker := storage_for(self.uri).read_tagged(self._first_write)) is not None:
            storage_for(self.uri).delete_if(self._first_write, marker[1])
        return version

    def restore(self, spark: SparkSession, version: int, metadata: dict[str, Any]) -> None:
        """Make each date that changed since a version what it was then, in one commit as `replace` makes it.

        Version -1 empties the table.

        Raises:
            LockLostError: see `replace`.
            LogGoneError: see `commits_since`.
        """
        if version < 0:
            self.replace(self.read(spark).where("false"), None, metadata, ("listen_date",))
        elif dates := self.changed_dates(version):
            self.replace(self.read(spark, version).where(of_dates(dates)), of_dates(dates), metadata, ("listen_date",))

    def compact(self, spark: SparkSession, retention_days: int) -> None:
        """Merge small files, then delete files that no version within the retention needs."""
        self._before_commit()
        spark.sql(f"OPTIMIZE {self._sql_name}")
        self.delete_old_versions(spark, retention_days)

    def delete_old_versions(self, spark: SparkSession, retention_days: int) -> None:
        """Delete files that no version within the retention needs, and what killed writes left."""
        self._before_commit()
        spark.conf.set(_RETENTION_CHECK, "false")
        try:
            spark.sql(f"VACUUM {self._sql_name} RETAIN {retention_days * 24} HOURS")
        finally:
            spark.conf.unset(_RETENTION_CHECK)

    def keep_manifests(self, spark: SparkSession) -> None:
        """Have Delta write the table's manifests, and those of changed partitions with each commit from now on."""
        properties = dict(row[:2] for row in spark.sql(f"SHOW TBLPROPERTIES {self._sql_name}").collect())
        if properties.get(_KEEPS_MANIFESTS) == "true":
            return
        self._before_commit()
        spark.sql(f"GENERATE symlink_format_manifest FOR TABLE {self._sql_name}")
        spark.sql(f"ALTER TABLE {self._sql_name} SET TBLPROPERTIES ('{_KEEPS_MANIFESTS}' = 'true')")

    @property
    def _first_write(self) -> str:
        return join(self.uri, _FIRST_WRITE)

    @property
    def _sql_name(self) -> str:
        """The table in SQL: Delta's own Python package is not in the image, as it brings pyspark along."""
        return "delta.`" + self.uri.replace("`", "``") + "`"

    def commit(self, version: int) -> Commit:
        """Return one commit.

        Raises:
            LogGoneError: the log doesn't hold it (any more).
        """
        commit = self._find_commit(version)
        if commit is None:
            raise LogGoneError(f"{self.uri}: the log holds no version {version}")
        return commit

    def commits_back(self) -> list[Commit]:
        """Return all commits that the log still holds, oldest first."""
        return [self.commit(version) for version in sorted(self._logged_versions())]

    def commits_since(self, version: int, until: int | None = None) -> list[Commit]:
        """Return all commits after a version up to another (None: the newest), oldest first.

        Raises:
            LogGoneError: the log was cleaned up to a later version than that.
        """
        newest = self.version() if until is None else until
        if newest < version:
            raise LogGoneError(f"{self.uri}: the newest version is {newest}, not {version} or later")
        return [self.commit(number) for number in range(version + 1, newest + 1)]

    def changed_dates(self, since: int, until: int | None = None) -> set[str]:
        """Return the values of `listen_date` in whose partitions data changed after a version, up to another.

        Raises:
            LogGoneError: see `commits_since`.
        """
        commits = self.commits_since(since, until)
        return {date for commit in commits for date in commit.changed_partitions("listen_date")}

    def _logged_versions(self) -> Iterator[int]:
        folder = join(self.uri, _LOG)
        for stored in storage_for(folder).list_files(folder):
            stem, _, suffix = stored.relative.partition(".")
            if suffix == "json" and stem.isdigit():
                yield int(stem)

    def _version_of(self, commit_id: str, before: int) -> int | None:
        """Return the version after `before` whose commit bears this mark."""
        for version in count(before + 1):
            commit = self._find_commit(version)
            if commit is None or commit.user_metadata.get("commit_id") == commit_id:
                return None if commit is None else version
        return None

    def _find_commit(self, version: int) -> Commit | None:
        data = storage_for(self.uri).read(join(self.uri, _LOG, f"{version:020}.json"))
        if data is None:
            return None
        return Commit(version, tuple(json.loads(line) for line in data.splitlines() if line.strip()))
