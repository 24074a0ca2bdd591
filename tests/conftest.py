"""One Spark session for the whole run: small, without UI, with the application's own settings and jars."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pyspark.sql import SparkSession

from spark_app.spark.session import build_session
from tests.faults.report import print_table
from tools.spark_submit import SHORT_RUN_JAVA_OPTIONS, spark_home, submit_environment, submit_options

# Many small frames: what a laptop gains on large ones is only start-up here.
TEST_CONF = {
    "spark.master": "local[2]",
    "spark.sql.shuffle.partitions": "2",
    "spark.default.parallelism": "2",
    "spark.databricks.delta.snapshotPartitions": "1",
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.ui.showConsoleProgress": "false",
}
FIGURE = "figure"


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    """A session that is started once; what a test stops or changes of it, the others feel."""
    given = dict(os.environ)
    environment = submit_environment(given, short_run=True)
    # Of sys.path, only what tests/ need: a worker must find spark_app as on EMR, installed or on PYTHONPATH.
    os.environ.update(environment)
    conf = [part for name, value in TEST_CONF.items() for part in ("--conf", f"{name}={value}")]
    options = [*submit_options(("delta",)), *conf, "--driver-java-options", SHORT_RUN_JAVA_OPTIONS]
    os.environ["PYSPARK_SUBMIT_ARGS"] = shlex.join([*options, "pyspark-shell"])
    session = build_session(retention_days=30)
    session.sparkContext.setLogLevel("ERROR")
    yield session
    session.stop()
    for name in set(environment) - set(given):
        os.environ.pop(name, None)
    os.environ.update(given)
    time.tzset()


def pytest_configure() -> None:
    """Let tests find what `./build.sh` installed, and interrupt what they start, whatever starts them."""
    os.environ.setdefault("SPARK_HOME", str(spark_home()))
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell has it for what it runs in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def figure(record_property: Callable[[str, Any], None]) -> Callable[[str], None]:
    """Print a line at the end of all tests, whichever worker finds it."""
    return lambda line: record_property(FIGURE, line)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print which faults were tried and what else tests told; in parallel runs no other folder has such a hook."""
    tests = [test for outcome in ("passed", "failed") for test in terminalreporter.stats.get(outcome, [])]
    told = [(name, what) for test in tests for name, what in getattr(test, "user_properties", [])]
    print_table(terminalreporter, told)
    if figures := [line for name, line in told if name == FIGURE]:
        terminalreporter.section("figures")
        for line in figures:
            terminalreporter.write_line(line)
