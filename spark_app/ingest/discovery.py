"""Which files a run looks at: a listing of the input, or a run manifest that somebody prepared."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import jsonschema

from kpi_common.conf_files import load_schema
from kpi_common.contracts import Dataset
from kpi_common.files import StoredFile, is_s3, join, normalise, storage_for
from kpi_common.log import warn
from spark_app.errors import UsageError
from spark_app.run.files import InputFile

SUFFIXES = (".csv", ".csv.gz")
# Why a listed file is left alone: the next run lists it anew.
STILL_CHANGING, GONE = "still_changing", "gone"
LEFT_ALONE = {
    STILL_CHANGING: "it changed while it was read; the next run takes it as it is then",
    GONE: "it was listed, but is gone",
}


@dataclass(frozen=True)
class Listing:
    """The files of a run, those that it passes over by their name, and those a manifest names that are gone."""

    files: tuple[InputFile, ...]
    ignored: tuple[str, ...] = ()
    missing: tuple[InputFile, ...] = ()
    changed: tuple[InputFile, ...] = ()


def list_input(folder: str) -> Listing:
    """List `{streams,songs,users}/**/*.csv[.gz]` below the input folder.

    Raises:
        UsageError: the input is no folder, or has none of the three folders.
    """
    storage = storage_for(folder)
    files, ignored, seen_any = [], [], False
    for dataset in Dataset:
        for stored in storage.list_files(join(folder, dataset), within=folder):
            seen_any = True
            name = f"{dataset}/{stored.relative}".rstrip("/")
            if stored.problem is not None or is_ignored(stored.relative):
                ignored.append(_printable(name))
                if stored.problem is not None:
                    warn("ignored in the input", file=name, reason=stored.problem)
            else:
                files.append(_input_file(dataset, name, stored))
    if not seen_any:
        raise UsageError(
            f"{folder}: no file in streams/, songs/ or users/ below it; expected is the layout "
            "{streams,songs,users}/*.csv[.gz]"
        )
    return Listing(tuple(sorted(files, key=lambda file: file.order)), tuple(sorted(ignored)))


def read_manifest(uri: str) -> Listing:
    """Read a run manifest and look at the files it names as they are now.

    A file that is gone or has another etag by now is not read: the next listing takes it as it is then.

    Raises:
        UsageError: no such file, or its content breaks `conf/schemas/run_manifest.schema.json`.
    """
    data = storage_for(uri).read(uri)
    if data is None:
        raise UsageError(f"--manifest {uri}: no such file")
    try:
        content: dict[str, Any] = json.loads(data)
        jsonschema.validate(content, load_schema("run_manifest"))
    except ValueError as error:
        raise UsageError(f"--manifest {uri}: not valid JSON: {error}") from error
    except jsonschema.ValidationError as error:
        raise UsageError(f"--manifest {uri}: {error.json_path}: {error.message}") from error
    try:
        wanted = [_from_manifest(entry) for entry in content["files"]]
    except ValueError as error:
        raise UsageError(f"--manifest {uri}: modified_at: {error}") from error
    repeated = sorted(name for name, times in Counter(file.name for file in wanted).items() if times > 1)
    if repeated:
        raise UsageError(f"--manifest {uri}: names a file twice: {', '.join(repeated)}")
    for file in wanted:
        folder = file.name.partition("/")[0]
        if folder != file.dataset:
            raise UsageError(f"--manifest {uri}: {file.name}: is below {folder}/, but its dataset is {file.dataset}")
        if is_ignored(file.name) or not file.uri.endswith(SUFFIXES):
            raise UsageError(f"--manifest {uri}: {file.name}: the name must end in .csv or .csv.gz, and not be hidden")
    return _as_they_are_now(wanted)


def _as_they_are_now(wanted: Iterable[InputFile]) -> Listing:
    files, missing, changed = [], [], []
    for file, found in _find_all(list(wanted)):
        if found is None:
            missing.append(file)
        elif found.size != file.size or (is_s3(file.uri) and file.etag != found.etag):
            changed.append(file)
        else:
            files.append(replace(file, stat=found.stat))
    return Listing(tuple(sorted(files, key=lambda file: file.order)), (), tuple(missing), tuple(changed))


def _find_all(wanted: list[InputFile]) -> Iterator[tuple[InputFile, StoredFile | None]]:
    """Look files up, folder by folder: one listing is cheaper than a request a file."""
    by_folder: dict[str, list[InputFile]] = {}
    for file in wanted:
        by_folder.setdefault(file.uri.rpartition("/")[0], []).append(file)
    for folder, files in by_folder.items():
        storage = storage_for(folder)
        if len(files) < 5:
            yield from ((file, storage.find(file.uri)) for file in files)
        else:
            there = {stored.uri: stored for stored in storage.list_files(folder)}
            yield from ((file, there.get(file.uri)) for file in files)


def _input_file(dataset: Dataset, name: str, stored: StoredFile) -> InputFile:
    return InputFile(dataset, name, stored.uri, stored.size, stored.modified_at, stored.etag, stored.stat)


def _from_manifest(entry: dict[str, Any]) -> InputFile:
    modified = datetime.fromisoformat(entry["modified_at"])
    if modified.tzinfo is None:
        modified = modified.replace(tzinfo=UTC)
    return InputFile(
        Dataset(entry["dataset"]),
        entry["name"],
        normalise(entry["path"]),
        entry["size"],
        modified.astimezone(UTC),
        entry["etag"],
    )


def change_of(file: InputFile) -> str | None:
    """Look at a listed file once more: GONE, STILL_CHANGING, or None if it is as it was when it was listed."""
    found = storage_for(file.uri).find(file.uri)
    if found is None:
        return GONE
    same = found.stat == file.stat if file.stat else (found.size, found.etag) == (file.size, file.etag)
    return None if same else STILL_CHANGING


def is_ignored(relative: str) -> bool:
    """Whether a path is no input.

    That is: no CSV file, a dot file, in a folder of unfinished work (`_temporary/`), or not named in UTF-8.
    """
    *folders, name = relative.split("/")
    if not name.endswith(SUFFIXES) or name.startswith(".") or _printable(relative) != relative:
        return True
    return any(folder.startswith(("_", ".")) for folder in folders)


def _printable(name: str) -> str:
    """Return a name with escapes for bytes that are no UTF-8: disks allow them, nothing that a run writes does."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
