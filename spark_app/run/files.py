"""A file of listens, songs or users: as it is listed, and each version of it that the ledger knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

from kpi_common.contracts import Dataset

UNREAD = "unread"  # the etag of a local file that was rejected before its content was read


@dataclass(frozen=True)
class InputFile:
    """One version of one input file.

    `name` is its path below the input, with the dataset's folder first: it identifies the file over time.
    `etag` is S3's, or the MD5 of a local file's bytes (None until they were read).
    """

    dataset: Dataset
    name: str
    uri: str
    size: int
    modified_at: datetime
    etag: str | None
    stat: str | None = None

    @property
    def order(self) -> tuple[datetime, str]:
        """Key that orders file versions: modification time, then name."""
        return self.modified_at, self.name

    @property
    def compressed(self) -> bool:
        """Whether the name says gzip."""
        return self.uri.endswith(".gz")


class Status(StrEnum):
    """The state of a file version."""

    PENDING = "pending"  # judged and being staged; of a dead run, accepted if its rows were committed
    ACCEPTED = "accepted"  # its rows are staged and count
    REJECTED = "rejected"  # refused whole, with a reason
    REPLACED = "replaced"  # accepted once; a newer version's rows stand in its place
    WITHDRAWING = "withdrawing"  # its rows are being taken back by hand; a dead run's withdrawal is done again
    WITHDRAWN = "withdrawn"  # accepted once; its rows were taken back by hand
    RELEASED = "released"  # rejected or withdrawn once; the next run takes it again
    ABANDONED = "abandoned"  # pending when its run died, and its rows had not been committed


@dataclass(frozen=True)
class FileVersion:
    """One row of the ledger. Counts are rows of the file; `waiting` is a part of `valid`, as of when it was staged."""

    file_id: int
    version: int
    dataset: Dataset
    name: str
    uri: str
    etag: str
    size: int
    modified_at: datetime
    stat: str | None
    status: Status
    reason: str | None = None
    message: str | None = None
    rows: int = 0
    valid: int = 0
    duplicates: int = 0
    quarantined: int = 0
    waiting: int = 0
    unknown_users: int = 0
    forgotten: int = 0
    quarantined_by_reason: Mapping[str, int] = field(default_factory=dict)
    run_id: str = ""
    updated_at: datetime = datetime(1970, 1, 1, tzinfo=UTC)
