"""Cheap checks before a cluster is paid for: reference data is there, headers have the columns of the contracts.

A file whose header breaks its contract is left to the Spark application all the same: it rejects it with its reason,
and the good ones beside it are processed. Only when nothing good would be left, files are rejected here.
"""

from __future__ import annotations

import csv
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from kpi_common.conf_files import load_toml
from kpi_common.log import log, warn
from kpi_common.s3_files import S3Storage
from kpi_pipeline.errors import InputError
from kpi_pipeline.files.arrivals import REFERENCE, STREAMS
from kpi_pipeline.settings import PipelineSettings

HEADER_BYTES = 64 * 1024
AT_ONCE = 16


@dataclass(frozen=True)
class Problem:
    """A file that the Spark application is going to reject."""

    name: str
    message: str


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
        problems = [problem for problem in pool.map(lambda file: check_header(buckets, file), files) if problem]
    for problem in problems:
        warn("file will be rejected", file=problem.name, reason=problem.message)
    log("headers checked", files=len(files), bad=len(problems))
    return problems


def check_header(buckets: S3Storage, file: dict[str, Any]) -> Problem | None:
    """Look at the first bytes of a file; None when its header has all required columns once."""
    data = buckets.read(file["path"], HEADER_BYTES)
    if data is None:
        return None  # gone by now: the job says so, and the next listing too
    if file["path"].endswith(".gz"):
        try:
            data = _first_bytes(data)
        except zlib.error as error:
            return Problem(file["name"], f"not a gzip file: {error}")
    if not data:
        return Problem(file["name"], "the file is empty")
    line = data.removeprefix(b"\xef\xbb\xbf").split(b"\n", 1)[0]
    try:
        names = [name.strip() for name in next(csv.reader([line.decode("utf-8").strip()]), [])]
    except (UnicodeDecodeError, csv.Error) as error:
        return Problem(file["name"], f"the header can't be read: {error}")
    columns = load_toml(f"contracts/{file['dataset']}.toml")["columns"]
    return _compare(file["name"], names, [c["name"] for c in columns if c.get("required")])


def _first_bytes(packed: bytes) -> bytes:
    """Return the first bytes behind a gzip file's first ones; it may be of several parts, the first ones empty."""
    data = b""
    while packed and len(data) < HEADER_BYTES:
        part = zlib.decompressobj(wbits=31)
        data += part.decompress(packed, HEADER_BYTES - len(data))
        packed = part.unused_data.lstrip(b"\0")
        if not part.eof:
            break
    return data


def _compare(name: str, names: list[str], required: Iterable[str]) -> Problem | None:
    missing = [column for column in required if column not in names]
    if missing:
        return Problem(
            name, f"the header lacks required columns: {', '.join(missing)}; it has: {', '.join(names[:30])}"
        )
    twice = [column for column in required if names.count(column) > 1]
    return Problem(name, f"the header names a column twice: {', '.join(twice)}") if twice else None


def all_streams_bad(files: list[dict[str, Any]], problems: list[Problem]) -> bool:
    """Tell whether every streams file is going to be rejected."""
    bad = {problem.name for problem in problems}
    streams = [file["name"] for file in files if file["dataset"] == STREAMS]
    return bool(streams) and all(name in bad for name in streams)
