"""Files that name forgotten users: found, and written again without these rows.

Of a CSV file, a record names one by its `user_id`; where that isn't known (no such column, another number of
fields, no number), by any field. Of JSON files (results, reasons of rejected files), samples of bad rows are looked at.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, cast

from kpi_common.contracts import WHITE_SPACE, Contract, Dataset, load_contract
from kpi_common.errors import StorageError, first_of
from kpi_common.files import etag_of_content, join, storage_for
from kpi_common.log import log
from spark_app.ingest.csv_records import BYTE_ORDER_MARK, split_records
from spark_app.ingest.discovery import SUFFIXES
from spark_app.ingest.file_ledger import LedgerFolder
from spark_app.recovery import settle_rewriting
from spark_app.run.context import Context
from spark_app.run.forgotten import USER_ID, Forgotten
from spark_app.run.result import RunResult
from spark_app.run.state import Rewriting, StateFile

_REASON = ".reason.json"
_AT_ONCE = 4  # files, for each core: few tasks, and none that waits for one that holds all of the large ones


@dataclass(frozen=True)
class Naming:
    """A file, and how many of its lines (or samples) name forgotten users; unknown for a `problem`."""

    uri: str
    lines: int = 0
    problem: str = ""
    rewritten: bool = False


def search_lake(context: Context, forgotten: Forgotten) -> list[Naming]:
    """Look into results of runs, and what was read of databases."""
    results = _listed(join(context.lake.uri, "runs"), ("/result.json",))
    return _search(context, [*results, *_listed(join(context.lake.uri, "ops", "database"), SUFFIXES)], forgotten)


def search_folders(context: Context, folders: Iterable[str], forgotten: Forgotten) -> list[Naming]:
    """Look into the CSV files of listens and users below these folders, and into reasons of rejected files."""
    uris: list[str] = []
    for folder in folders:
        found = _listed(folder, (*SUFFIXES, _REASON))
        if not found:
            context.result.warn(f"--files {folder}: holds no CSV file")
        uris += found
    return _search(context, list(dict.fromkeys(uris)), forgotten)


def rewrite_file(context: Context, state: StateFile, found: Naming, forgotten: Forgotten) -> Naming:
    """Write a file again without what names forgotten users; its time on a disk, or its notes in S3, stay.

    To the ledger it stays the version that it was, also if the run is killed in between (`Rewriting`).
    """
    storage = storage_for(found.uri)
    tagged = storage.read_tagged(found.uri)
    if found.problem or tagged is None:
        return found
    content, name = _without_named(tagged[0], found.uri, forgotten), _name(found.uri)
    if any((v.uri, v.etag) == (found.uri, tagged[1]) for v in LedgerFolder(state).read([name]).of(name)):
        state.save("rewrite", rewriting=Rewriting(name, found.uri, tagged[1], etag_of_content(content)))
    context.lake.ensure_held()
    if storage.rewrite_if(found.uri, content, tagged[1]) is None:
        return Naming(found.uri, found.lines, "it changed meanwhile; give the command again")
    settle_rewriting(state)
    return Naming(found.uri, found.lines, rewritten=True)


def record_forgotten(
    result: RunResult,
    forgotten: Forgotten,
    rows: Mapping[str, Mapping[str, int]],
    files: Sequence[Naming],
    *,
    dry_run: bool,
) -> None:
    """Put into the run's result what was found of forgotten users, without saying who they are."""
    result.forgotten = {
        "dry_run": dry_run,
        "users": len(forgotten.hashes),
        "rows": {table: sum(counts.values()) for table, counts in rows.items()},
        "dates": sorted(rows.get("staged/streams", {})),
        "files": [vars(found) for found in files],
    }
    log("forgotten users", **{name: value for name, value in result.forgotten.items() if name != "files"})
    left = [found.uri for found in files if not found.rewritten and not found.problem]
    unknown = [f"{found.uri}: {found.problem}" for found in files if found.problem]
    if left and not dry_run:
        result.warn(f"{len(left)} files name forgotten users; --rewrite takes these rows out: {first_of(left)}")
    if unknown:
        result.warn(f"{len(unknown)} files may name forgotten users: {first_of(unknown)}")


def _listed(folder: str, suffixes: tuple[str, ...]) -> list[str]:
    uris = sorted(stored.uri for stored in storage_for(folder).list_files(folder))
    wanted = [uri for uri in uris if uri.endswith(suffixes)]
    return [uri for uri in wanted if uri.endswith(".json") or _dataset(uri) is not Dataset.SONGS]


def _dataset(uri: str) -> Dataset:
    """Return the dataset in whose folder a file is, the last one if there are several; streams, if there is none."""
    return next((Dataset(part) for part in reversed(uri.split("/")[:-1]) if part in set(Dataset)), Dataset.STREAMS)


def _name(uri: str) -> str:
    """Return the name that a file of the input has in the ledger."""
    before, folder, after = uri.rpartition(f"/{_dataset(uri)}/")
    return f"{folder.strip('/')}/{after}" if before else after


def _search(context: Context, uris: list[str], forgotten: Forgotten) -> list[Naming]:
    """Look into files, on the executors; returned are those that name forgotten users, or can't be read."""
    if not uris:
        return []
    slices = min(len(uris), _AT_ONCE * context.spark.sparkContext.defaultParallelism)
    looked = context.spark.sparkContext.parallelize(uris, slices).map(partial(_look, forgotten=forgotten)).collect()
    return [found for found in looked if found.lines or found.problem]


def _look(uri: str, forgotten: Forgotten) -> Naming:
    try:
        with storage_for(uri).open(uri) as stream:
            if uri.endswith(".json"):
                content = json.load(stream)
                return Naming(uri, len(_samples(content)) - len(_samples(_without_samples(content, forgotten))))
            return Naming(uri, sum(named for _, named in _lines(stream, uri, forgotten)))
    except (StorageError, OSError, EOFError, ValueError, zlib.error) as error:
        return Naming(uri, problem=f"can't be searched: {error}")


def _without_named(data: bytes, uri: str, forgotten: Forgotten) -> bytes:
    if uri.endswith(".json"):
        return json.dumps(_without_samples(json.loads(data), forgotten), indent=1, ensure_ascii=False).encode()
    kept = io.BytesIO()
    packed = gzip.GzipFile(fileobj=kept, mode="wb", mtime=0) if uri.endswith(".gz") else None
    for line, named in _lines(io.BytesIO(data), uri, forgotten):
        if not named:
            (packed or kept).write(line.encode("utf-8", "surrogateescape"))
    if packed is not None:
        packed.close()
    return kept.getvalue()


def _lines(stream: BinaryIO, uri: str, forgotten: Forgotten) -> Iterator[tuple[str, bool]]:
    """Yield each line of a CSV file, with its end, and whether it is part of a record that names a forgotten user.

    Raises:
        ValueError: it is no text in UTF-8 or the like.
    """
    contract = load_contract(_dataset(uri))
    unpacked = cast(BinaryIO, gzip.GzipFile(fileobj=stream)) if uri.endswith(".gz") else stream
    with io.TextIOWrapper(unpacked, "utf-8", "surrogateescape", newline="\n") as text:
        first = text.readline()
        if "\0" in first:
            raise ValueError("it is not UTF-8 text")
        columns = _cells(first.removeprefix(BYTE_ORDER_MARK))
        place = columns.index(contract.source_name("user_id")) if contract.source_name("user_id") in columns else None

        def names(record: str) -> bool:
            cells = _cells(record)
            if place is None or len(cells) != len(columns) or not USER_ID.fullmatch(cells[place]):
                return forgotten.are_named_in(record)
            return int(cells[place]) in forgotten

        yield first, place is None and names(first)
        yield from _marked(text, len(columns), contract, names)


def _marked(
    text: Iterable[str], columns: int, contract: Contract, names: Callable[[str], bool]
) -> Iterator[tuple[str, bool]]:
    """Mark each line after the header by its record; records are cut as in `csv_records`."""
    if not contract.newline_in_field:
        yield from ((line, names(line)) for line in text)
        return
    waiting: deque[tuple[int, str]] = deque()

    def noted() -> Iterator[str]:
        yield ""  # the header, which is read already
        for number, line in enumerate(text, start=2):
            waiting.append((number, line))
            yield line

    for number, _, raw in split_records(noted(), columns, contract.quote_escape):
        end, named = number + raw.count("\n"), names(raw)
        while waiting and waiting[0][0] <= end:
            place, line = waiting.popleft()
            yield line, named and place >= number
    yield from ((line, False) for _, line in waiting)


def _cells(record: str) -> list[str]:
    """Split a record at its commas; what is no CSV is one cell."""
    text = record.strip("\r\n")
    try:
        cells = next(csv.reader(io.StringIO(text, newline=""), strict=True), []) if '"' in text else text.split(",")
    except csv.Error:
        return [text]
    return [cell.strip(WHITE_SPACE) for cell in cells]


def _samples(content: dict[str, Any]) -> list[Any]:
    """Return all samples of bad rows in a result, or in the reason of a rejected file."""
    return [sample for file in (content, *content.get("files", [])) for sample in file.get("samples", [])]


def _without_samples(content: dict[str, Any], forgotten: Forgotten) -> dict[str, Any]:
    def cleaned(file: dict[str, Any]) -> dict[str, Any]:
        others = [sample for sample in file.get("samples", []) if not forgotten.are_named_in(str(sample.get("raw")))]
        return {**file, "samples": others} if "samples" in file else file

    files = {"files": [cleaned(file) for file in content["files"]]} if "files" in content else {}
    return {**cleaned(content), **files}
