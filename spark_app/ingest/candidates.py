"""What this run knows of each file that it judges."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial, reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from kpi_common.log import warn
from spark_app.config.contracts import Dataset
from spark_app.ingest.csv_records import SourceFile
from spark_app.ingest.file_profile import FileProfile, References
from spark_app.ingest.preflight import Inspection
from spark_app.ingest.validation import Checked
from spark_app.run.files import FileVersion, InputFile
from spark_app.run.result import FileOutcome


@dataclass
class Candidate:
    """A file that this run judges."""

    inspection: Inspection
    pending: FileVersion
    outcome: FileOutcome
    profile: FileProfile = field(default_factory=FileProfile)

    @property
    def file(self) -> InputFile:
        """The file, with its etag."""
        return self.inspection.file

    @property
    def accepted(self) -> bool:
        """Whether nothing speaks against the file so far."""
        return self.outcome.outcome == "accepted"

    @property
    def source(self) -> SourceFile:
        """What reading the file needs."""
        return SourceFile(self.pending.file_id, self.file.uri, self.file.modified_at, self.inspection.header)


@dataclass(frozen=True)
class Group:
    """Candidates of one dataset and form, and their rows as checked; Spark holds what they come from in `cached`.

    `apart` has at least those rows that break a rule of quarantine, or name an unknown track or user: few of many, as a
    rule, and kept apart for that. `by_lines`: they were read by physical lines (`records.line_records`). `references`:
    what they were held against.
    """

    dataset: Dataset
    candidates: tuple[Candidate, ...]
    checked: Checked
    apart: DataFrame
    cached: tuple[DataFrame, ...]
    by_lines: bool
    references: References


def reject(candidate: Candidate, reason: str, message: str) -> None:
    """Refuse a file whole, with a reason."""
    outcome = candidate.outcome
    outcome.outcome, outcome.reason, outcome.message = "rejected", reason, message
    warn("file rejected", file=candidate.file.name, reason=reason, detail=message)


def accepted_rows(groups: list[Group], dataset: Dataset) -> DataFrame | None:
    """Valid rows of the accepted files of a dataset, or None if there is no such file.

    Groups that were read by lines and others tell the place of a row by other columns, which are NULL where they lack.
    """
    frames = []
    for group in groups:
        members = [c for c in group.candidates if c.accepted]
        if group.dataset is dataset and members:
            frames.append(group.checked.kept.where(of_files(members)))
    return reduce(partial(DataFrame.unionByName, allowMissingColumns=True), frames) if frames else None


def of_files(candidates: Iterable[Candidate]) -> Column:
    """Whether a row belongs to one of these files."""
    return F.col("file_id").isin([c.pending.file_id for c in candidates])
