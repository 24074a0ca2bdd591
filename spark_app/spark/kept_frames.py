"""Frames that several queries read, kept in memory (and on disk, where there is no room) for as long as they do."""

from __future__ import annotations

from types import TracebackType

from pyspark.sql import DataFrame


class KeptFrames:
    """A context: frames kept in it are let go at its end. A part that is lost with an executor is computed again."""

    def __init__(self) -> None:
        self._frames: list[DataFrame] = []

    def keep(self, frame: DataFrame) -> DataFrame:
        """Keep a frame from its first use on."""
        self._frames.append(frame.persist())
        return self._frames[-1]

    def __enter__(self) -> KeptFrames:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for frame in self._frames:
            frame.unpersist()
