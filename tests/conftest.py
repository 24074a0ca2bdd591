"""One Spark session for the whole run: small, without UI, with the application's own settings and jars."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from pyspark import RDD, SparkContext
from pyspark.serializers import BatchedSerializer
from pyspark.sql import SparkSession
from xdist.scheduler import LoadFileScheduling

from spark_app.spark import session as spark_session
from spark_app.spark.session import FOR_LITTLE_DATA, build_session
from tests.faults.report import print_table
from tests.support.cpu import cpu_seconds
from tools.spark_submit import spark_home, submit_environment, submit_options

TEST_CONF = FOR_LITTLE_DATA | {
    "spark.master": "local[2]",
    "spark.default.parallelism": "2",
    "spark.databricks.delta.snapshotPartitions": "1",
    "spark.ui.showConsoleProgress": "false",
}
FIGURE, CPU = "figure", "cpu"
COSTLIEST = 10


_pickled = RDD._pickled


def _as_java_reads_it(rows: RDD[Any]) -> RDD[Any]:
    """Rows of `createDataFrame` are pickled in batches already; Python workers would only pickle them once more.

    That took 0.3 of the 0.45 CPU s of a small frame.
    """
    return rows if isinstance(rows._jrdd_deserializer, BatchedSerializer) else _pickled(rows)


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    """A session that is started once; what a test stops or changes of it, the others feel."""
    given = dict(os.environ)
    environment = submit_environment(given)
    # Of sys.path, only what tests/ need: a worker must find spark_app as on EMR, installed or on PYTHONPATH.
    os.environ.update(environment)
    conf = [part for name, value in TEST_CONF.items() for part in ("--conf", f"{name}={value}")]
    os.environ["PYSPARK_SUBMIT_ARGS"] = shlex.join([*submit_options(("delta", "jdbc")), *conf, "pyspark-shell"])
    session = build_session(retention_days=30)
    session.sparkContext.setLogLevel("ERROR")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RDD, "_pickled", _as_java_reads_it)
        yield session
    _stop(session)
    for name in set(environment) - set(given):
        os.environ.pop(name, None)
    os.environ.update(given)
    time.tzset()


@pytest.fixture
def as_for_many_rows(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Adaptive execution and generated code, which the application leaves out for little data."""
    monkeypatch.setattr(spark_session, "LITTLE_DATA_BYTES", 0)
    monkeypatch.setattr(spark_session, "SOME_DATA_BYTES", 0)
    for name in FOR_LITTLE_DATA:
        spark.conf.unset(name)
    spark.conf.set("spark.sql.shuffle.partitions", "4")
    assert spark.conf.get("spark.sql.adaptive.enabled") == "true"
    yield
    for name, value in FOR_LITTLE_DATA.items():
        spark.conf.set(name, value)


def _stop(session: SparkSession) -> None:
    """Wait for the end of Java too, so that its CPU seconds are counted."""
    gateway: Any = session.sparkContext._gateway
    session.stop()
    gateway.shutdown()
    gateway.proc.stdin.close()
    gateway.proc.wait()
    SparkContext._gateway = SparkContext._jvm = None


def pytest_configure() -> None:
    """Let tests find what `./build.sh` installed, and interrupt what they start, whatever starts them.

    On a busy machine anything may be slow: that is no finding.
    """
    settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("any machine")
    os.environ.setdefault("SPARK_HOME", str(spark_home()))
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell has it for what it runs in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def figure(record_property: Callable[[str, Any], None]) -> Callable[[str], None]:
    """Print a line at the end of all tests, whichever worker finds it."""
    return lambda line: record_property(FIGURE, line)


class OneJava(LoadFileScheduling):  # type: ignore[misc]  # (xdist has no types)
    """In parallel runs, tests go to workers by files, and all of the shared session to one: Java has to warm up."""

    def _split_scope(self, nodeid: str) -> str:
        path = super()._split_scope(nodeid)
        return "spark" if _uses_spark(path) else path


@cache
def _uses_spark(path: str) -> bool:
    return SparkSession.__name__ in (Path(__file__).parents[1] / path).read_text("utf-8")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneJava:
    """Have xdist use it; scopes with the most tests come first."""
    return OneJava(config, log)


_cpu_so_far = [0.0]


def pytest_collection_finish() -> None:
    """What follows is the tests' own."""
    _cpu_so_far[0] = cpu_seconds()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Note after the last test of a file what the file cost."""
    yield
    if nextitem is None or nextitem.path != item.path:
        before, _cpu_so_far[0] = _cpu_so_far[0], cpu_seconds()
        item.user_properties.append((CPU, (item.nodeid.partition("::")[0], _cpu_so_far[0] - before)))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print which faults were tried and what else tests told; in parallel runs no other folder has such a hook."""
    told = _properties(terminalreporter, "passed", "failed")
    print_table(terminalreporter, told)
    if figures := [line for name, line in told if name == FIGURE]:
        terminalreporter.section("figures")
        for line in figures:
            terminalreporter.write_line(line)
    terminalreporter.section("CPU seconds, of Java and other processes too")
    files = [what for name, what in _properties(terminalreporter, "", "error") if name == CPU]  # of a test's teardown
    for name, seconds in sorted(files, key=lambda file: -file[1])[:COSTLIEST]:
        terminalreporter.write_line(f"{seconds:7.1f}  {name}")
    terminalreporter.write_line(f"{cpu_seconds():7.1f}  all")


def _properties(terminalreporter: Any, *outcomes: str) -> list[tuple[str, Any]]:
    """What tests noted, in reports of these outcomes."""
    reports = [report for outcome in outcomes for report in terminalreporter.stats.get(outcome, [])]
    return [(name, what) for report in reports for name, what in getattr(report, "user_properties", [])]
