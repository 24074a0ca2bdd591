"""How `spark-submit` runs the application on this machine."""

import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.local.jars import jars_for

ROOT = Path(__file__).resolve().parents[2]
APPLICATION = ROOT / "spark_app" / "__main__.py"
SPARK_CONF = ROOT / "conf" / "spark"

# Saves a quarter of the time of a short run: the compiler for long running programs is left out.
SHORT_RUN_JAVA_OPTIONS = "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=256m"


def spark_home() -> Path:
    """Return the folder of the installed pyspark, which is a whole Spark."""
    spec = importlib.util.find_spec("pyspark")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("pyspark is not installed: use ./build.sh")
    return Path(spec.origin).parent


def submit_options(purposes: Sequence[str] = ("delta",)) -> list[str]:
    """Return the options of `spark-submit`, with the jars for these purposes.

    In local mode the jars go on the class path: `--jars` would copy each of them first.
    """
    jars = ":".join(str(path) for path in jars_for(purposes).values())
    bars = "true" if sys.stderr.isatty() else "false"
    conf = {"spark.driver.extraClassPath": jars, "spark.ui.showConsoleProgress": bars}
    options = ["--properties-file", str(SPARK_CONF / "local.conf")]
    return options + [part for name, value in conf.items() for part in ("--conf", f"{name}={value}")]


def submit_command(arguments: Sequence[str], purposes: Sequence[str] = ("delta",)) -> list[str]:
    """Return the command that runs the application with these arguments."""
    return [str(spark_home() / "bin" / "spark-submit"), *submit_options(purposes), str(APPLICATION), *arguments]


def submit_environment(environ: Mapping[str, str], *, short_run: bool = False) -> dict[str, str]:
    """Return the environment for `submit_command`: this Python, this repository, UTC, Spark on loopback only."""
    env = {
        **environ,
        "SPARK_HOME": str(spark_home()),
        "SPARK_CONF_DIR": str(SPARK_CONF),
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "dags")]),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "TZ": "UTC",
    }
    if short_run:
        env["SPARK_SUBMIT_OPTS"] = f"{environ.get('SPARK_SUBMIT_OPTS', '')} {SHORT_RUN_JAVA_OPTIONS}".strip()
    return env
