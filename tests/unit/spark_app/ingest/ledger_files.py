"""Files and versions of files, as the tests of the ledger and of what is decided by it need them."""

from datetime import UTC, datetime, timedelta

from kpi_common.contracts import Dataset
from spark_app.ingest.file_ledger import Ledger
from spark_app.run.files import FileVersion, InputFile, Status

NOON = datetime(2024, 6, 25, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
LATER = NOON + 10 * HOUR


def a_file(
    name: str = "streams/a.csv", etag: str | None = "e1", modified_at: datetime = NOON, stat: str | None = "10-1"
) -> InputFile:
    return InputFile(Dataset(name.split("/", maxsplit=1)[0]), name, f"/in/{name}", 10, modified_at, etag, stat)


def a_version(
    name: str = "streams/a.csv",
    status: Status = Status.ACCEPTED,
    etag: str = "e1",
    *,
    file_id: int = 1,
    version: int = 1,
    modified_at: datetime = NOON,
    reason: str | None = None,
    **fields: object,
) -> FileVersion:
    """A version of a file, as the ledger holds it."""
    file = a_file(name, etag, modified_at)
    known = {"dataset": file.dataset, "uri": file.uri, "size": file.size, "stat": file.stat, "updated_at": NOON}
    return FileVersion(
        file_id=file_id,
        version=version,
        name=name,
        etag=etag,
        modified_at=modified_at,
        status=status,
        reason=reason,
        **{**known, **fields},  # type: ignore[arg-type]
    )


def ledger_of(*states: tuple[Status, str], reason: str | None = None) -> Ledger:
    """A ledger of one file; each version an hour younger than the one before."""
    return Ledger(
        [
            a_version(
                status=status,
                etag=etag,
                version=number + 1,
                modified_at=NOON + number * HOUR,
                reason=reason if status is Status.REJECTED else None,
            )
            for number, (status, etag) in enumerate(states)
        ]
    )
