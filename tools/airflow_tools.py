"""Get Airflow, in virtual environments of its own under `.build/`: the newest one, and that of MWAA.

`python -m tools.airflow_tools [3.3|3.0 ...]` makes those named, or all.
"""

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
    )
}
NEWEST = "3.3"


def get_airflow(name: str = NEWEST) -> AirflowVersion:
    """Return an Airflow, made exactly as its lock says; one process at a time, others wait.

    Raises:
        ToolchainError: uv could not make it.
    """
    version = AIRFLOWS[name]
    get_own_venv(version.venv, version.lock, f"Airflow {version.name}")
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
