"""Frames that several queries read, kept for as long as they do."""

from __future__ import annotations

from types import TracebackType

from pyspark import StorageLevel
from pyspark.sql import DataFrame

from spark_app.spark.session import is_local


class KeptFrames:
    """A context: what is kept in it by `keep_many_rows` is let go at its end.

    On a cluster, `keep` writes below `scratch`, a folder that all machines reach; who opens a lake empties it.
    """

    def __init__(self, scratch: str) -> None:
        self._scratch = scratch
        self._frames: list[DataFrame] = []

    def keep_many_rows(self, frame: DataFrame, level: StorageLevel = StorageLevel.MEMORY_AND_DISK_DESER) -> DataFrame:
        """Keep a frame in columns, from its first use on; what is lost with an executor is computed again."""
        self._frames.append(frame.persist(level))
        return self._frames[-1]

    def keep(self, frame: DataFrame) -> DataFrame:
        """Keep the rows alone, in place of the plan that they came by.

        The plan of a persisted frame stays in that of each query on it, so of frames made of frames it grows with each
        level, and Spark writes all of it down for each query: minutes, for what is small. Rows without a plan can't be
        computed again, so on a cluster they are written to files, which no executor takes along when it is lost.
        """
        context = frame.sparkSession.sparkContext
        if is_local(context):
            return frame.localCheckpoint(eager=False)
        if context.getCheckpointDir() is None:
            context.setCheckpointDir(self._scratch)
        return frame.checkpoint()

    def __enter__(self) -> KeptFrames:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for frame in self._frames:
            frame.unpersist()
