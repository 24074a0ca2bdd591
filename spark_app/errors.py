"""The errors of the application; those that both sides have stand in `kpi_common.errors`."""

from __future__ import annotations

from py4j.protocol import Py4JJavaError

from kpi_common.errors import AppError, StorageError, UsageError

__all__ = [
    "AppError",
    "AuditError",
    "LakeLockedError",
    "LockLostError",
    "NothingUsableError",
    "StorageError",
    "UsageError",
    "in_one_line",
]


class NothingUsableError(AppError):
    """No file can be used: every new file was rejected, or songs or users are missing."""

    exit_code = 3
    code = "nothing_usable"


class AuditError(AppError):
    """A check of the results failed; nothing of this step was published."""

    exit_code = 4
    code = "audit_failed"


class LakeLockedError(AppError):
    """Another application holds the lake's lock and did not give it back in time."""

    code = "lake_locked"


class LockLostError(AppError):
    """The lake's lock was taken over by another application while this one was working."""

    code = "lock_lost"


def in_one_line(error: Exception) -> str:
    """Return the first line of what an error says; of one from Java, of what Java says."""
    text = error.java_exception.getMessage() if isinstance(error, Py4JJavaError) else error
    return str(text).strip().partition("\n")[0]
