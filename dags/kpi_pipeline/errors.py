"""The errors of the pipeline; those that both sides have stand in `kpi_common.errors`."""

from __future__ import annotations

from kpi_common.errors import AppError, shortened


class ExportError(AppError):
    """An export that is incomplete, damaged or not understood."""


class TableError(AppError):
    """A DynamoDB table whose keys or indexes are not those of the layout."""


class TooManyRetriesError(AppError):
    """DynamoDB took nothing for as long as the settings allow to wait."""


class LeaseError(AppError):
    """Another writer of the same export is at work, or took over from this one."""


class OtherLakeError(AppError):
    """The tables were written from another lake."""


class RedshiftError(AppError):
    """Redshift failed or refused a transaction, so nothing of it was done."""


class VerificationError(AppError):
    """What is in DynamoDB or Redshift still differs from the export after writing it."""


class SupersededError(AppError):
    """A newer export has begun; it contains this one, so nothing is left to do. The command line reports success."""

    exit_code = 0

    def __init__(self, export_seq: int, newer_seq: int, newer_run_id: str) -> None:
        super().__init__(
            f"export {export_seq} is superseded: export {newer_seq} (run {newer_run_id}) has begun and contains it. "
            "If the lake was put back to an earlier state, use --adopt-lake."
        )
        self.newer_seq = newer_seq
        self.newer_run_id = newer_run_id


class InputError(AppError):
    """Nothing of what was claimed can be processed; the message names each file and its reason."""


class ResultError(AppError):
    """A result of the Spark application that is missing, breaks its schema, or is of another run or manifest."""


class JobFailedError(AppError):
    """The Spark job failed.

    Args:
        message: EMR's words, the application's reason, where the log is.
        public: the same without what quotes others.
        exit_code_of_job: what the application ended with, if that is known.
    """

    def __init__(self, message: str, public: str, exit_code_of_job: int | None) -> None:
        super().__init__(message)
        self.public = shortened(public)
        self.exit_code_of_job = exit_code_of_job


def public_reason(error: BaseException, log: str) -> str:
    """Return what may leave the log of a failure: the message of our own errors, of all others the class alone.

    Others' messages may quote rows, and with them personal data, or secrets.

    Args:
        error: what was raised, or raised from an error of our own.
        log: where the whole message is.
    """
    own = next((one for one in (error, error.__cause__) if isinstance(one, AppError)), None)
    if own is None:
        return f"{type(error).__name__}; its message is only in the log: {log}"
    return f"{type(own).__name__}: {getattr(own, 'public', own)}"
