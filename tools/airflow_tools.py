"""Get Airflow, in virtual environments of its own under `.build/`: the newest one, and those of MWAA's images.

`python -m tools.airflow_tools [3.3|3.0|… ...]` makes those named, or all. They are of MWAA's Python where the machine
has one, else of ours.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tools.toolchain import BUILD, LOCKS, ToolchainError, get_own_venv, say


@dataclass(frozen=True)
class AirflowVersion:
    """An Airflow that the DAG is run with."""

    name: str
    lock: Path
    venv: Path

    @property
    def python(self) -> Path:
        """Its Python, which has no pyspark."""
        return self.venv / "bin" / "python"

    @property
    def command(self) -> Path:
        """Its command `airflow`."""
        return self.venv / "bin" / "airflow"


AIRFLOWS = {
    version.name: version
    for version in (
        AirflowVersion("3.3", LOCKS / "airflow.txt", BUILD / "airflow" / "3.3"),
        AirflowVersion("3.0", LOCKS / "airflow-3.0.txt", BUILD / "airflow" / "3.0"),
        AirflowVersion("3.2.1", LOCKS / "airflow-3.2.1.txt", BUILD / "airflow" / "3.2.1"),
        AirflowVersion("3.3.1", LOCKS / "airflow-3.3.1.txt", BUILD / "airflow" / "3.3.1"),
    )
}
NEWEST = "3.3"
RUN_WITH = (NEWEST, "3.0")  # the DAG is run with these; on the others it is only imported
PYTHON_OF_MWAA = "python3.12"


def python_of_mwaa() -> Path:
    """Return a Python 3.12 of this machine, on PATH or of pyenv, else our own one."""
    of_pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    on_path = shutil.which(PYTHON_OF_MWAA)
    candidates = [*([Path(on_path)] if on_path else []), *of_pyenv.glob(f"3.12.*/bin/{PYTHON_OF_MWAA}")]
    for candidate in candidates:
        # pyenv's own command of that name is there, but fails, where another version is chosen.
        if subprocess.run([candidate, "-c", "import sqlite3, ssl"], capture_output=True, check=False).returncode == 0:
            return candidate
    say(f"no {PYTHON_OF_MWAA} here: Airflow runs on Python {sys.version.split()[0]}")
    return Path(sys.executable)


def get_airflow(name: str = NEWEST) -> AirflowVersion:
    """Return an Airflow, made exactly as its lock says; one process at a time, others wait.

    Raises:
        ToolchainError: uv could not make it.
    """
    version = AIRFLOWS[name]
    get_own_venv(version.venv, version.lock, f"Airflow {version.name}", python_of_mwaa())
    return version


def installed(version: AirflowVersion, package: str) -> str:
    """Return the version of a package that an Airflow's environment has."""
    code = f"import importlib.metadata; print(importlib.metadata.version({package!r}))"
    return subprocess.run([version.python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def main(names: list[str]) -> int:
    """Make the Airflows named, or all."""
    try:
        for name in names or AIRFLOWS:
            get_airflow(name)
    except ToolchainError as error:
        say(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
