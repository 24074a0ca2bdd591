"""A look into each new file before Spark reads it (`kpi_common.preflight`), on the driver or on executors.

The line count is the independent figure that the conservation of rows is checked against. All is plain Python
over a stream of bytes, so it runs on the driver for small inputs and on the executors for large ones; what it takes is
bounded: a file that unpacks into too much, or has a line too long, is given up there. Nothing here needs pyspark.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from kpi_common.contracts import BROKEN_QUOTES, Contract, load_contract
from kpi_common.files import storage_for
from kpi_common.preflight import FileScan
from spark_app.config.settings import Settings
from spark_app.run.files import UNREAD, InputFile

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_BYTES_PER_TASK = 100_000_000  # half a second, beside a tenth that a task takes by itself


@dataclass(frozen=True)
class Inspection:
    """What a look into one file found.

    `lines` counts physical lines after the header that are not blank, `quoted_lines` those of them with a quote.
    `quotes` says that there may be some, `open_quotes` that some line may hold an odd number of them, `decomposed` that
    some text may not be in Unicode's form NFC. `reason` and `message` are set when the file must be rejected.
    """

    file: InputFile
    header: tuple[str, ...] = ()
    lines: int = 0
    quotes: bool = True
    open_quotes: bool = True
    decomposed: bool = False
    quoted_lines: int = 0
    reason: str | None = None
    message: str | None = None


def inspect_files(files: list[InputFile], spark: Callable[[], SparkSession], settings: Settings) -> list[Inspection]:
    """Inspect files, in the order given: on the driver if they are small in all, else on the executors."""
    inspect = partial(inspect_file, settings=settings)
    size = sum(file.size for file in files)
    if size <= settings.inspect_on_driver_bytes:
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(inspect, files))
    context = spark().sparkContext
    slices = min(len(files), max(context.defaultParallelism, size // _BYTES_PER_TASK))
    return context.parallelize(files, slices).map(inspect).collect()


def inspect_file(file: InputFile, settings: Settings) -> Inspection:
    """Read all bytes of one file; a local file's etag (MD5) comes out of it too."""
    checksum = hashlib.md5(usedforsecurity=False) if file.etag is None else None
    scan = FileScan(load_contract(file.dataset), settings.file_limits)
    scan.read_file(storage_for(file.uri).open, file.uri, file.name, checksum=checksum)
    if checksum is not None:
        file = replace(file, etag=UNREAD if scan.unread else checksum.hexdigest())
    if scan.unread:
        return Inspection(file, reason=scan.reason, message=scan.message)
    return Inspection(
        file,
        scan.header,
        scan.lines,
        scan.quotes,
        scan.open_quotes,
        scan.decomposed,
        scan.quoted_lines,
        scan.reason,
        scan.message,
    )


def rejection_hint(inspection: Inspection, by_reason: Mapping[str, int], contract: Contract) -> str:
    """What to add to the reason for which rows were too bad, where the file as a whole explains them."""
    hints = ""
    broken = by_reason.get(BROKEN_QUOTES, 0)
    if contract.quote_escape == "double" and 2 * broken > inspection.quoted_lines:
        hints += (
            f"; {broken} of {inspection.quoted_lines} lines with quotes have quotes that RFC 4180 does not allow: if "
            f'the source writes \\" for one, set quote_escape = "backslash" in conf/contracts/{contract.dataset}.toml'
        )
    if by_reason.get("in_future"):
        hints += f"; in_future goes by the time of the file itself, which is {inspection.file.modified_at.isoformat()}"
    return hints
