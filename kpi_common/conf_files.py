"""Where the files of `conf/` are: packed into this package or in the repository.

The folder, local or in S3, that `MUSIC_KPIS_CONF_DIR` names holds those that are to be others; see
docs/configuration.md.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from kpi_common.errors import UsageError

CONF_DIR_VARIABLE = "MUSIC_KPIS_CONF_DIR"


def conf_dirs() -> list[Path]:
    """Return the folders in which a file of `conf/` is looked for: that of one's own, if one is named, then ours.

    Raises:
        UsageError: there is none.
    """
    named = os.environ.get(CONF_DIR_VARIABLE)
    package = Path(__file__).resolve().parent
    ours = [folder for folder in (package / "conf", package.parent / "conf") if folder.is_dir()]
    if not ours:
        raise UsageError(f"no conf/ folder in {package} or beside it")
    return [*([_own_folder(named)] if named else []), ours[0]]


@cache
def _own_folder(named: str) -> Path:
    """Return a folder of one's own; one in S3 is brought to this machine, once."""
    if not named.startswith("s3://"):
        if not Path(named).is_dir():
            raise UsageError(f"{CONF_DIR_VARIABLE}={named}: there is no such folder")
        return Path(named)
    from kpi_common.s3_files import S3Storage  # boto3 takes a while to load

    folder, storage = Path(tempfile.mkdtemp(prefix="music-kpis-conf-")), S3Storage()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for stored in storage.list_files(named):
        if stored.relative.endswith((".toml", ".json", ".conf")) and ".." not in stored.relative.split("/"):
            target = folder / stored.relative
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(storage.read(stored.uri) or b"")
    if not any(folder.iterdir()):
        raise UsageError(f"{CONF_DIR_VARIABLE}={named}: there are no files of conf/ there")
    return folder


def conf_file(relative: str) -> Path:
    """Return where a file of `conf/` is, or would be: one's own comes before ours."""
    places = [folder / relative for folder in conf_dirs()]
    return next((place for place in places if place.is_file()), places[-1])


def load_toml(relative: str) -> dict[str, Any]:
    """Read one TOML file of `conf/`.

    Raises:
        UsageError: the file is missing or is not TOML.
    """
    path = conf_file(relative)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"{path}: configuration file not found") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from error


@cache
def load_schema(name: str) -> dict[str, Any]:
    """Read the JSON schema `conf/schemas/<name>.schema.json`."""
    schema: dict[str, Any] = json.loads(conf_file(f"schemas/{name}.schema.json").read_text(encoding="utf-8"))
    return schema
