"""Cheap checks before a cluster is paid for: reference data is there, headers have the columns of the contracts.

A file whose header breaks its contract is left to the Spark application all the same: it rejects it with its reason,
and the good ones beside it are processed. Only when nothing good would be left, files are rejected here.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from kpi_common.contracts import load_contract
from kpi_common.log import log, warn
from kpi_common.preflight import UNREADABLE_FILE, FileLimits, FileScan
from kpi_common.s3_files import S3Storage
from kpi_pipeline.errors import InputError
from kpi_pipeline.files.arrivals import REFERENCE, STREAMS
from kpi_pipeline.settings import PipelineSettings

AT_ONCE = 16
LIMITS = frozenset(FileLimits.__dataclass_fields__)


@dataclass(frozen=True)
class Problem:
    """A file that the Spark application is going to reject."""

    name: str
    reason: str


def check_inputs(buckets: S3Storage, settings: PipelineSettings, files: list[dict[str, Any]]) -> list[Problem]:
    """Check the files of a run manifest and return those that will be rejected.

    Raises:
        InputError: songs or users are neither in the source nor in the lake, so the job could do nothing.
    """
    missing = [
        dataset
        for dataset in REFERENCE
        if not any(file["dataset"] == dataset for file in files)
        and next(buckets.list_files(f"{settings.lake}/staged/{dataset}/_delta_log"), None) is None
    ]
    if missing:
        folders = ", ".join(f"{settings.source}/{dataset}/" for dataset in missing)
        raise InputError(f"no {' and no '.join(missing)}: no CSV file in {folders}, and none staged in the lake before")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = pool.map(lambda file: check_header(buckets, settings, file), files)
        problems = [problem for problem in found if problem]
    for problem in problems:
        warn("file will be rejected", file=problem.name, reason=problem.reason)
    log("headers checked", files=len(files), bad=len(problems))
    return problems


def check_header(buckets: S3Storage, settings: PipelineSettings, file: dict[str, Any]) -> Problem | None:
    """Look at a file's header as the application does; a file that can't be read, or is gone by now, is left to it."""
    given = {name: int(value) for name, value in settings.job_settings.items() if name in LIMITS and value.isdecimal()}
    scan = FileScan(load_contract(file["dataset"]), FileLimits(**given))
    scan.read_file(buckets.stream, file["path"], file["name"], header_only=True)
    if scan.reason is None or scan.reason == UNREADABLE_FILE:
        return None
    return Problem(file["name"], f"{scan.reason}: {scan.message}")


def all_streams_bad(files: list[dict[str, Any]], problems: list[Problem]) -> bool:
    """Tell whether every streams file is going to be rejected."""
    bad = {problem.name for problem in problems}
    streams = [file["name"] for file in files if file["dataset"] == STREAMS]
    return bool(streams) and all(name in bad for name in streams)
