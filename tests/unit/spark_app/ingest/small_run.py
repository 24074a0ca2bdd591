"""A run step by step, on files of a few rows: what the application does between listing and settling."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pyspark.sql import SparkSession

from spark_app.ingest.acceptance import judge_references, judge_streams
from spark_app.ingest.candidates import Candidate, Judged
from spark_app.ingest.discovery import list_input
from spark_app.ingest.file_ledger import Ledger, LedgerFolder
from spark_app.ingest.ingest import choose_files, inspect_batch, open_versions, settle_files
from spark_app.ingest.trial import plan_batches
from spark_app.ingest.write_staged import Written, count_written, write_files
from spark_app.lake.tables import mark_lake
from spark_app.run.context import Context
from spark_app.run.state import StateFile
from spark_app.spark.kept_frames import KeptFrames
from tests.unit.spark_app.builders import a_context
from tests.unit.spark_app.ingest.ledger_files import NOON

HEADERS = {
    "songs": "id,track_id,artists,album_name,track_name,popularity,duration_ms,track_genre",
    "users": "user_id,user_name,user_age,user_country,created_at",
    "streams": "user_id,track_id,listen_time",
}
SONG, USER = "1,t,Ann,Album,Tune,50,1000,pop", "1,Ann,30,DE,2024-01-01"


def listen(second: int, user: int | str = 1, track: str = "t") -> str:
    return f"{user},{track},2024-06-25 10:00:{second:02}"


@dataclass
class SmallRun:
    """One run on a folder with an input and a lake."""

    spark: SparkSession
    folder: Path
    settings: tuple[str, ...] = ()
    run_id: str = "r"

    def __post_init__(self) -> None:
        self.context: Context = a_context(self.folder / "lake", lambda: self.spark, *self.settings, run_id=self.run_id)
        mark_lake(self.context.lake, self.context.settings)
        self.frames = KeptFrames(self.context.lake.scratch)
        self.state = StateFile(self.context.lake, self.run_id)
        self.ledger_folder = LedgerFolder(self.state)
        self.ledger = Ledger()

    @classmethod
    def on_copy(cls, staged: Path, spark: SparkSession, folder: Path, *settings: str) -> SmallRun:
        """A run on a copy of an input and a lake."""
        shutil.copytree(staged, folder, dirs_exist_ok=True)
        return cls(spark, folder, settings)

    def put(self, name: str, *rows: str, at: datetime = NOON) -> Path:
        """Write a file."""
        path = self.folder / "input" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([HEADERS[name.partition("/")[0]], *rows]) + "\n")
        os.utime(path, (at.timestamp(), at.timestamp()))
        return path

    def put_references(self) -> None:
        self.put("songs/s.csv", SONG)
        self.put("users/u.csv", USER)

    def inspect(self) -> list[Candidate]:
        """All new files of the input, looked into."""
        listing = list_input(str(self.folder / "input"))
        self.ledger = self.ledger_folder.read(file.name for file in listing.files)
        choice = choose_files(listing, self.ledger, self.context.settings)
        batches = plan_batches(choice.files, self.state.value)
        return inspect_batch(self.context, batches[0], self.ledger)[0] if batches else []

    def judge(self, candidates: list[Candidate] | None = None) -> Judged:
        candidates = self.inspect() if candidates is None else candidates
        references = judge_references(self.context, candidates, self.frames)
        return references + judge_streams(self.context, candidates, references, self.ledger, self.frames)

    def write(self, judged: Judged) -> Written:
        open_versions(self.state, self.ledger, judged.candidates)
        return write_files(self.context, judged, self.ledger)

    def take_in(self) -> dict[str, Candidate]:
        """All steps; the settled files by name."""
        with self.frames:
            judged = self.judge()
            counted = count_written(self.context, judged, self.write(judged))
            settled = settle_files(self.context, self.ledger_folder, self.ledger, counted)
        return {candidate.file.name: candidate for candidate in settled}

    def rows(self, table: str, *columns: str) -> list[tuple[object, ...]]:
        """Rows of a table of the lake, in order."""
        frame = self.spark.read.format("delta").load(f"{self.context.lake.uri}/{table}")
        return sorted((tuple(row) for row in frame.select(*columns).collect()), key=repr)
