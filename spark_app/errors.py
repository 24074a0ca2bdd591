"""The one error hierarchy of the application; each class carries the exit code of the command line."""

from __future__ import annotations


class AppError(Exception):
    """A failure that a user can act on: `code` is for programs, the message for people."""

    exit_code = 1
    code = "failed"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class UsageError(AppError):
    """A wrong argument, setting, contract or manifest; found before any work is done."""

    exit_code = 2
    code = "usage"


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


class StorageError(AppError):
    """A file or folder can't be read or written."""

    code = "storage"
