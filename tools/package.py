"""`./build.sh package`: what to upload to MWAA or any other Airflow, in `.build/package/`.

`dags/` is the folder of DAGs, with its helper packages and the part of conf/ that they need; `requirements.txt` is the
file of Python requirements that MWAA takes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tools.toolchain import BUILD, LOCKS, ROOT, UV, network_environment, run

PACKAGE = BUILD / "package"
API_ARCHIVE = BUILD / "kpi_api.zip"
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


def build_api(archive: Path = API_ARCHIVE) -> Path:
    """Write the code of the KPI API's Lambda function, with its packages for Linux on x86, and return its archive."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        install: list[str | Path] = [UV, "pip", "install", "--quiet", "--require-hashes", "--target", folder]
        install += ["--python-platform", "x86_64-manylinux2014", "--python-version", "3.12", "--only-binary", ":all:"]
        env = network_environment(os.environ)
        run([*install, "-r", LOCKS / "api.txt"], env, "uv could not install the packages of locks/api.txt")
        ignore = shutil.ignore_patterns("__pycache__", "local.py")
        for package in ("api", "kpi_common"):
            shutil.copytree(ROOT / package, folder / package, ignore=ignore)
        shutil.copytree(ROOT / "conf" / "dynamodb", folder / "kpi_common" / "conf" / "dynamodb")
        archive.parent.mkdir(parents=True, exist_ok=True)
        return Path(shutil.make_archive(str(archive.with_suffix("")), "zip", folder))


def main(arguments: Sequence[str]) -> int:
    """Build and tell what is there."""
    parser = argparse.ArgumentParser(prog="./build.sh package", description=__doc__)
    parser.add_argument("--api", action="store_true", help="only the KPI API's Lambda function: .build/kpi_api.zip")
    if parser.parse_args(arguments).api:
        print(f"{build_api().relative_to(ROOT)}: upload it, and deploy conf/aws/kpi_api.yaml; see docs/api.md.")
        return 0
    files = build()
    for path in files:
        print(path.relative_to(ROOT))
    print(f"\n{len(files)} files. Upload dags/ to the folder of DAGs and requirements.txt; see docs/deploy.md.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
