"""The one place that builds a Spark session: Delta, UTC, and what results must not depend on."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from pyspark import SparkContext
from pyspark.sql import SparkSession

from kpi_common.conf_files import CONF_DIR_VARIABLE
from spark_app import __version__
from spark_app.config.settings import Settings
from spark_app.errors import UsageError
from spark_app.log import Steps
from spark_app.spark.metrics import StageMeter

_LOCALE = "C.UTF-8"
# What results or safety depend on is fixed here; sizes and speed are in conf/spark and the job's parameters.
REQUIRED = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "false",
    "spark.sql.legacy.timeParserPolicy": "CORRECTED",
    "spark.sql.files.ignoreCorruptFiles": "false",
    "spark.sql.files.ignoreMissingFiles": "false",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.sql.caseSensitive": "true",
    "spark.executorEnv.LC_ALL": _LOCALE,
    "spark.executorEnv.PYTHONUTF8": "1",
    "spark.executorEnv.TZ": "UTC",
    # Both look where a join's key comes from, through all steps of parsing: with 300 columns and a quote in a file
    # that takes gigabytes. No query here would gain by them.
    "spark.sql.optimizer.dynamicPartitionPruning.enabled": "false",
    "spark.sql.optimizer.runtime.bloomFilter.enabled": "false",
}

_SHUFFLE_PARTITIONS = "spark.sql.shuffle.partitions"
_ROWS_PER_SHUFFLE_PARTITION = 500_000
BYTES_PER_ROW = 50
LITTLE_DATA_BYTES, SOME_DATA_BYTES = 8_000_000, 32_000_000
_BYTES_PER_SHUFFLE_PARTITION = 16_000_000
# To plan anew after each shuffle takes longer than some data do: it makes a job of each.
_FOR_SOME_DATA = {"spark.sql.adaptive.enabled": "false"}
# To make Java code of a plan takes much longer than little data do.
FOR_LITTLE_DATA = _FOR_SOME_DATA | {
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    # Each task unpacks the plan anew, and of little data there is nothing to share among tasks.
    _SHUFFLE_PARTITIONS: "1",
    "spark.sql.leafNodeDefaultParallelism": "1",
}
# Of the driver's environment, what executors read files by, too: none of it is a secret.
_FOR_EXECUTORS = (CONF_DIR_VARIABLE, "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")
# What Python asks Java for thousands of times in a run: classes, and members of them.
_OFTEN_USED = {"functions": ("col", "lit", "when", "coalesce", "expr"), "PythonUtils": ("toSeq",)}


class LazySession:
    """One session, started when it is first asked for, from whatever thread; or one that is given."""

    def __init__(self, settings: Settings, steps: Steps, given: SparkSession | None = None) -> None:
        self._settings, self._steps, self._given = settings, steps, given
        self._lock = threading.Lock()
        self.started: SparkSession | None = None

    def __call__(self) -> SparkSession:
        """Return the session."""
        with self._lock:
            if self.started is None:
                with self._steps.step("start Spark"):
                    self.started = self._given or build_session(self._settings.retention_days)
                self._steps.meter = StageMeter(self.started)
            return self.started

    def stop(self) -> None:
        """Stop the session if it was started here."""
        context = SparkContext._active_spark_context  # noqa: SLF001 (there even where the start was broken off)
        if self._given is None and context is not None:
            context.stop()


def build_session(retention_days: int) -> SparkSession:
    """Start Spark (or take the running one), with Delta and with S3A for `s3://`."""
    set_environment()
    retention = f"interval {max(retention_days, 7)} days"
    builder = SparkSession.builder.appName(f"music-streaming-kpis {__version__}")
    options = REQUIRED | {
        "spark.databricks.delta.properties.defaults.logRetentionDuration": retention,
        "spark.databricks.delta.properties.defaults.deletedFileRetentionDuration": retention,
        # Of the columns, only the first is looked for in files: the file_id of what a corrected file replaces.
        "spark.databricks.delta.properties.defaults.dataSkippingNumIndexedCols": "1",
    }
    options |= {f"spark.executorEnv.{name}": os.environ[name] for name in _FOR_EXECUTORS if name in os.environ}
    for name, value in (options | _s3_options() | _log_store_options()).items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("WARN")
    _look_up_once(spark)
    _use_no_language(spark)
    if os.environ.get("TINI_KILL_PROCESS_GROUP"):
        _let_python_end_first(spark)
    return spark


def set_environment() -> None:
    """Set time zone and encoding for Java, where it is started from here, and for Python's workers."""
    os.environ.update(TZ="UTC", LC_ALL=_LOCALE, PYTHONUTF8="1")
    time.tzset()


def _look_up_once(spark: SparkSession) -> None:
    """Keep what is often used of Java: py4j looks through all jars at each use. That was a fifth of a small run."""
    jvm: Any = spark._jvm  # noqa: SLF001 (the way to Java's classes)
    for name, members in _OFTEN_USED.items():
        found = getattr(jvm, name)
        setattr(jvm, name, found)
        for member in members:
            setattr(found, member, getattr(found, member))


def _use_no_language(spark: SparkSession) -> None:
    """Make Java write numbers, cases and messages in no country's way, and be sure that it can name any file.

    Raises:
        UsageError: Java was started where names of files can only be ASCII.
    """
    jvm: Any = spark._jvm  # noqa: SLF001 (the way to Java's classes)
    jvm.java.util.Locale.setDefault(jvm.java.util.Locale.ROOT)
    encodings = [jvm.java.lang.System.getProperty(name) for name in ("sun.jnu.encoding", "file.encoding")]
    if {encoding.upper() for encoding in encodings} != {"UTF-8"}:
        raise UsageError(
            f"Java was started with the encodings {' and '.join(encodings)} for names of files and for text; both must "
            f"be UTF-8: set LC_ALL={_LOCALE} where spark-submit is started (./build.sh and the image do), and "
            "-Dfile.encoding=UTF-8 where Java's options say otherwise"
        )


def _let_python_end_first(spark: SparkSession) -> None:
    """Make Java ignore SIGTERM, for use where Python gets it too: in a container, all ends when Java does.

    So there is time to give the lake's lock back and to write the result; Java then ends as Python has.
    """
    misc: Any = spark._jvm.sun.misc  # type: ignore[union-attr]  # noqa: SLF001 (the way to Java's classes)
    misc.Signal.handle(misc.Signal("TERM"), misc.SignalHandler.SIG_IGN)


@contextmanager
def plans_for(spark: SparkSession, *, rows: int = 0, data_bytes: int = 0) -> Iterator[None]:
    """Let queries run as suits so many rows of listens and so many bytes of other data; then the session is as before.

    Of much data, shuffles get so many partitions that each fits into memory, and never fewer than are set.
    """
    size = rows * BYTES_PER_ROW + data_bytes
    if size < LITTLE_DATA_BYTES:
        wanted = FOR_LITTLE_DATA
    elif size < SOME_DATA_BYTES:
        wanted = _FOR_SOME_DATA | {_SHUFFLE_PARTITIONS: str(1 + size // _BYTES_PER_SHUFFLE_PARTITION)}
    else:
        partitions = max(int(spark.conf.get(_SHUFFLE_PARTITIONS) or 0), 1 + rows // _ROWS_PER_SHUFFLE_PARTITION)
        wanted = {_SHUFFLE_PARTITIONS: str(partitions)}
    with _options(spark, wanted):
        yield


def plans_for_a_pass(spark: SparkSession) -> AbstractContextManager[None]:
    """Let a query go over very many rows and keep few, amid plans for less data; then the session is as before."""
    return _options(spark, {"spark.sql.codegen.wholeStage": "true", "spark.sql.codegen.factoryMode": "FALLBACK"})


@contextmanager
def _options(spark: SparkSession, wanted: Mapping[str, str]) -> Iterator[None]:
    before = {name: spark.conf.get(name, None) for name in wanted}
    try:
        for name, value in wanted.items():
            spark.conf.set(name, value)
        yield
    finally:
        for name, old in before.items():
            spark.conf.unset(name) if old is None else spark.conf.set(name, old)


def is_local(context: SparkContext) -> bool:
    """Whether driver and executor are one process, so that neither can be lost without the other."""
    return str(context.master).partition("[")[0] == "local"


def tasks_at_once(spark: SparkSession) -> int:
    """How many tasks a query should have that gains by each core, with the plans that are set."""
    return min(spark.sparkContext.defaultParallelism, int(spark.conf.get(_SHUFFLE_PARTITIONS) or 1))


def _s3_options() -> dict[str, str]:
    """S3A for `s3://`, at the endpoint of the AWS environment variables where one is named."""
    options = {
        "spark.hadoop.fs.s3.impl": "org.apache.hadoop.fs.s3a.S3AFileSystem",
    }
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        options |= {
            "spark.hadoop.fs.s3a.endpoint": endpoint,
            "spark.hadoop.fs.s3a.path.style.access": "true",
            "spark.hadoop.fs.s3a.connection.ssl.enabled": str(endpoint.startswith("https")).lower(),
        }
    return options


def _log_store_options() -> dict[str, str]:
    """The region of the table that Delta's commits go through where conf/spark says so (emr.conf): the job's own."""
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return {"spark.io.delta.storage.S3DynamoDBLogStore.ddb.region": region} if region else {}
