"""How `spark-submit` runs the application on this machine."""

import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.jars import jars_for

ROOT = Path(__file__).resolve().parents[1]
APPLICATION = ROOT / "spark_app" / "__main__.py"
SPARK_CONF = ROOT / "conf" / "spark"
LOGGING = "log4j2.properties"

# Saves a quarter of the time of a short run: the compiler for long running programs is left out.
SHORT_RUN_JAVA_OPTIONS = "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=256m"


# Java's classes as they are after a run (see `tools.class_archive`), and an empty folder in the place of Spark's
# settings, which are named by their paths: Java takes no archive where a folder with files is on its class path.
CLASS_ARCHIVES = ROOT / ".build" / "java-classes"
EMPTY_CONF = CLASS_ARCHIVES / "conf"


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


def archive_of(purposes: Sequence[str]) -> Path:
    """Return where the archive of Java's classes lies, if it was made, for runs with the jars of these purposes."""
    return CLASS_ARCHIVES / f"{'-'.join(purposes)}.jsa"


def submit_environment(
    environ: Mapping[str, str], purposes: Sequence[str] = ("delta",), *, short_run: bool = False
) -> dict[str, str]:
    """Return the environment for `submit_command`: this Python, this repository, UTC, UTF-8, Spark on loopback only."""
    EMPTY_CONF.mkdir(parents=True, exist_ok=True)
    java = [environ.get("SPARK_SUBMIT_OPTS", ""), f"-Dlog4j2.configurationFile={(SPARK_CONF / LOGGING).as_uri()}"]
    if (archive := archive_of(purposes)).exists():
        java += [f"-XX:SharedArchiveFile={archive}", "-Xlog:cds*=off"]
    if short_run:
        java.append(SHORT_RUN_JAVA_OPTIONS)
    return {
        **environ,
        "SPARK_HOME": str(spark_home()),
        "SPARK_CONF_DIR": str(EMPTY_CONF),
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "dags")]),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_LAUNCHER_OPTS": "-Dfile.encoding=UTF-8",  # of the Java that hands the arguments on
        "SPARK_SUBMIT_OPTS": " ".join(java).strip(),
        "TZ": "UTC",
        "LC_ALL": "C.UTF-8",
        "PYTHONUTF8": "1",
        "PYTHONIOENCODING": "utf-8",
    }
