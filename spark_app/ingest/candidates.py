"""What this run knows of each file that it judges, and the rows that were read of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from kpi_common.contracts import Dataset, load_contract
from kpi_common.errors import shortened
from kpi_common.log import warn
from kpi_common.preflight import shown_names
from spark_app.ingest.csv_records import SourceFile
from spark_app.ingest.discovery import GONE, LEFT_ALONE, STILL_CHANGING
from spark_app.ingest.file_profile import FileProfile, quality
from spark_app.ingest.preflight import Inspection
from spark_app.ingest.validation import Checked, warning_notes
from spark_app.run.files import FileVersion, InputFile, Status
from spark_app.run.result import FileOutcome

_OUTCOMES = {STILL_CHANGING: "changed", GONE: "missing"}


@dataclass(frozen=True)
class Candidate:
    """A file that this run judges. `version` is pending until it is settled; a reason says that it is not accepted."""

    inspection: Inspection
    version: FileVersion
    profile: FileProfile = field(default_factory=FileProfile)
    samples: tuple[dict[str, Any], ...] = ()

    @property
    def file(self) -> InputFile:
        """The file, with its etag."""
        return self.inspection.file

    @property
    def file_id(self) -> int:
        """The file's number in this lake."""
        return self.version.file_id

    @property
    def accepted(self) -> bool:
        """Whether nothing speaks against the file so far."""
        return self.version.reason is None

    @property
    def left_alone(self) -> bool:
        """Whether the file is neither accepted nor rejected: the next run lists it anew."""
        return self.version.reason in LEFT_ALONE

    @property
    def source(self) -> SourceFile:
        """What reading the file needs."""
        escape = load_contract(self.file.dataset).quote_escape
        return SourceFile(self.file_id, self.file.uri, self.file.modified_at, self.inspection.header, escape)

    def counted(self, **counts: Any) -> Candidate:
        """Return it with these fields of its version."""
        return replace(self, version=replace(self.version, **counts))

    def rejected(self, reason: str, message: str) -> Candidate:
        """Return it as refused whole, with a reason (or as left alone); none of its listens wait then."""
        what = "left for the next run" if reason in LEFT_ALONE else "rejected"
        warn(f"file {what}", file=self.file.name, reason=reason, detail=message)
        return self.counted(reason=reason, message=shortened(message), waiting=0, unknown_users=0)

    def outcome(self) -> FileOutcome:
        """What the run's result says of it; counts only when it is settled."""
        contract = load_contract(self.file.dataset)
        extra = [name for name in self.inspection.header if name not in contract.names]
        ignored = [f"ignored columns: {shown_names(extra)}"] if extra else []
        return FileOutcome(
            self.file,
            "accepted" if self.accepted else _OUTCOMES.get(self.version.reason or "", "rejected"),
            self.version.reason,
            self.version.message,
            version=None if self.version.status is Status.PENDING else self.version,
            notes=ignored + warning_notes(self.profile.by_reason),
            quality=quality(self.profile, contract) if self.profile.rows else {},
            samples=list(self.samples),
        )


@dataclass(frozen=True)
class FileRows:
    """The checked rows of some files of one dataset that were read together.

    `by_lines`: they were read by physical lines (`csv_records.line_records`).
    """

    dataset: Dataset
    file_ids: frozenset[int]
    checked: Checked
    by_lines: bool


@dataclass(frozen=True)
class Judged:
    """Candidates with the verdict on each, and the rows of those that could be read."""

    candidates: tuple[Candidate, ...] = ()
    rows: tuple[FileRows, ...] = ()

    def __add__(self, other: Judged) -> Judged:
        return Judged(self.candidates + other.candidates, self.rows + other.rows)

    def accepted(self, dataset: Dataset) -> list[Candidate]:
        """The accepted files of a dataset."""
        return [c for c in self.candidates if c.accepted and c.file.dataset is dataset]

    def of(self, rows: FileRows) -> list[Candidate]:
        """The accepted files among those of these rows."""
        return [c for c in self.candidates if c.accepted and c.file_id in rows.file_ids]

    def valid_rows(self, dataset: Dataset) -> DataFrame | None:
        """Valid rows of the accepted files of a dataset, or None if there is no such file.

        Files that were read by lines and others tell the place of a row by other columns: NULL where they lack.
        """
        frames = [
            rows.checked.kept.where(of_files(members))
            for rows in self.rows
            if rows.dataset is dataset and (members := self.of(rows))
        ]
        return reduce(partial(DataFrame.unionByName, allowMissingColumns=True), frames) if frames else None


def of_files(candidates: Iterable[Candidate]) -> Column:
    """Whether a row belongs to one of these files."""
    return F.col("file_id").isin([c.file_id for c in candidates])


def updated(candidates: Sequence[Candidate], changed: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """Return the candidates in their order, with those that changed."""
    by_id = {candidate.file_id: candidate for candidate in changed}
    return tuple(by_id.get(candidate.file_id, candidate) for candidate in candidates)
