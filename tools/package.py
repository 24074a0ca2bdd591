"""`./build.sh package`: what to upload to MWAA or any other Airflow, in `.build/package/`.

`dags/` is the folder of DAGs, with its helper packages and the part of conf/ that they need; `requirements.txt` is the
file of Python requirements that MWAA takes.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.toolchain import BUILD, ROOT

PACKAGE = BUILD / "package"
CONF = ("contracts/*.toml", "dynamodb/*.toml", "schemas/*.schema.json", "spark/emr.conf")
REQUIREMENTS = ROOT / "conf" / "airflow" / "requirements.txt"


def build(folder: Path = PACKAGE) -> list[Path]:
    """Write the folder anew and return its files."""
    shutil.rmtree(folder, ignore_errors=True)
    ignore = shutil.ignore_patterns("__pycache__", ".ruff_cache", "ruff.toml")
    shutil.copytree(ROOT / "dags", folder / "dags", ignore=ignore)
    for pattern in CONF:
        for path in sorted((ROOT / "conf").glob(pattern)):
            target = folder / "dags" / "kpi_common" / "conf" / path.relative_to(ROOT / "conf")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    for path in sorted(REQUIREMENTS.parent.iterdir()):
        shutil.copyfile(path, folder / path.name)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def main(arguments: Sequence[str]) -> int:
    """Build and tell what is there."""
    argparse.ArgumentParser(prog="./build.sh package", description=__doc__).parse_args(arguments)
    files = build()
    for path in files:
        print(path.relative_to(ROOT))
    print(f"\n{len(files)} files. Upload dags/ to the folder of DAGs and requirements.txt; see docs/deploy.md.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
