"""The base of the error hierarchy; each class carries the exit code of the command line."""

from __future__ import annotations

import errno
from collections.abc import Sequence

LONGEST_MESSAGE = 1000
_SHOWN = 5
_REFUSALS = {errno.EACCES, errno.EPERM, errno.ENOENT, errno.EIO}


def shortened(message: str) -> str:
    """Return a message of at most LONGEST_MESSAGE characters: its beginning and its end, which often says the mend."""
    if len(message) <= LONGEST_MESSAGE:
        return message
    return f"{message[: LONGEST_MESSAGE - 303]} … {message[-300:]}"


def first_of(parts: Sequence[str]) -> str:
    """Join some things to say, at most a few, with how many more there are."""
    more = [f"and {len(parts) - _SHOWN} more"] if len(parts) > _SHOWN else []
    return "; ".join([*parts[:_SHOWN], *more])


class AppError(Exception):
    """A failure that a user can act on: `code` is for programs, the message for people, at most LONGEST_MESSAGE."""

    exit_code = 1
    code = "failed"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(shortened(message))
        if code is not None:
            self.code = code


class UsageError(AppError):
    """A wrong argument, setting, contract or manifest; found before any work is done."""

    exit_code = 2
    code = "usage"


class StorageError(AppError):
    """A file or folder can't be read or written."""

    code = "storage"


class AwsError(StorageError):
    """AWS refused a request or can't be reached."""


class MovedAwayError(StorageError):
    """A file is gone or has other content than when it was listed."""


def refuses_one_file(error: BaseException | None) -> bool:
    """Whether a file may not be read (S3's 403 and 404 too), rather than a store that is out of order for a while."""
    while error is not None:
        answer = getattr(error, "response", {}).get("ResponseMetadata", {})
        if (isinstance(error, OSError) and error.errno in _REFUSALS) or answer.get("HTTPStatusCode") in {403, 404}:
            return True
        error = getattr(error, "backend_error", None) or error.__cause__
    return False
