"""Where the files of `conf/` are: packed into this package, in the repository, or named by `MUSIC_KPIS_CONF_DIR`."""

from __future__ import annotations

import json
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

from kpi_common.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONF_DIR_VARIABLE = "MUSIC_KPIS_CONF_DIR"


def conf_dir() -> Path:
    """Return the folder of configuration files.

    Raises:
        UsageError: there is none.
    """
    named = os.environ.get(CONF_DIR_VARIABLE)
    if named:
        if not Path(named).is_dir():
            raise UsageError(f"{CONF_DIR_VARIABLE}={named}: there is no such folder")
        return Path(named)
    package = Path(__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if folder.is_dir():
            return folder
    raise UsageError(f"no conf/ folder in {package} or beside it; name one with {CONF_DIR_VARIABLE}")


def load_toml(relative: str) -> dict[str, Any]:
    """Read one TOML file of `conf/`.

    Raises:
        UsageError: the file is missing or is not TOML.
    """
    path = conf_dir() / relative
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"{path}: configuration file not found") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from error


@cache
def load_schema(name: str) -> dict[str, Any]:
    """Read the JSON schema `conf/schemas/<name>.schema.json`."""
    text = (conf_dir() / "schemas" / f"{name}.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema
