"""Get Airflow, in virtual environments of its own under `.build/`: the newest one, and that of MWAA.

`python -m tests.local.airflow_tools [3.3|3.0 ...]` makes those named, or all.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.local.toolchain import (
    BUILD,
    LOCKS,
    UV,
    ToolchainError,
    get_uv,
    is_made_from,
    mark_made_from,
    network_environment,
    run,
    say,
)


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
    if is_made_from(version.venv, version.lock):
        return version
    version.venv.parent.mkdir(parents=True, exist_ok=True)
    with (version.venv.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_made_from(version.venv, version.lock):
            _make(version)
    return version


def _make(version: AirflowVersion) -> None:
    env = network_environment(os.environ)
    get_uv(env)
    say(f"getting Airflow {version.name} with the packages of locks/{version.lock.name} (once) …")
    shutil.rmtree(version.venv, ignore_errors=True)
    failure = f"uv could not install the packages of locks/{version.lock.name}"
    run([UV, "venv", "--quiet", "--clear", "--python", sys.executable, version.venv], env, failure)
    sync: list[str | Path] = [UV, "pip", "sync", "--quiet", "--compile-bytecode", "--require-hashes"]
    run([*sync, "--python", version.python, version.lock], env, failure)
    mark_made_from(version.venv, version.lock)


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
