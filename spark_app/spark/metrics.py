"""What Spark says of its own work: bytes and CPU seconds of each step, and what the workers of a run will have cost.

Spark has no public way to these figures from Python, and another Spark (EMR's, a newer one) may have others. They only
tell, so nothing here fails a run: what can't be had is left out, with a warning.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pyspark import SparkConf
from pyspark.sql import SparkSession

from kpi_common.log import warn
from spark_app.config.settings import Settings

Work = dict[str, float]

# Counters of a stage, as Spark names them, and the names under which a step tells their sums.
_COUNTERS: dict[str, Callable[[Any], float]] = {
    "cpu_seconds": lambda stage: stage.executorCpuTime() / 1e9,
    "input_bytes": lambda stage: stage.inputBytes(),
    "output_bytes": lambda stage: stage.outputBytes(),
    "shuffle_bytes": lambda stage: stage.shuffleWriteBytes(),
    "spilled_bytes": lambda stage: stage.diskBytesSpilled(),
}
_SIZE = re.compile(r"(\d+)([kmgt]?)b?", re.IGNORECASE)
_GIB = {"k": 2**-20, "m": 2**-10, "": 2**-10, "g": 1.0, "t": 2.0**10}
_OVERHEAD_SHARE, _OVERHEAD_LEAST = 0.10, 384 / 1024
# EMR Serverless: of a worker that is asked for without a size, and the least time that a worker is billed.
_WORKER_CORES, _WORKER_MEMORY = "4", "14g"
_LEAST_SECONDS = 60.0


class StageMeter:
    """Sums up what the tasks of Spark's stages did since it was read last."""

    def __init__(self, spark: SparkSession) -> None:
        self._spark = spark
        self._seen: set[tuple[int, int]] = set()
        self._works = True

    def __call__(self) -> Work:
        """Return CPU seconds of the tasks and bytes: read, written, put into shuffles, spilled to disk; or nothing."""
        if not self._works:
            return {}
        try:
            return self._read()
        except Exception as error:  # noqa: BLE001 (see the module)
            self._works = False
            _warn("work of the steps", error)
            return {}

    def _read(self) -> Work:
        jvm: Any = self._spark._jvm  # noqa: SLF001 (Spark's own status store has no public way from Python)
        context = self._spark.sparkContext._jsc.sc()  # noqa: SLF001
        context.listenerBus().waitUntilEmpty()
        nothing = jvm.java.util.ArrayList()
        quantiles = self._spark.sparkContext._gateway.new_array(jvm.double, 0)  # type: ignore[union-attr]  # noqa: SLF001
        stages = context.statusStore().stageList(nothing, False, False, quantiles, nothing)
        work = dict.fromkeys(_COUNTERS, 0.0)
        for position in range(stages.size()):
            stage = stages.apply(position)
            attempt = (stage.stageId(), stage.attemptId())
            if attempt in self._seen:
                break  # newest first
            self._seen.add(attempt)
            for name, read in _COUNTERS.items():
                work[name] += read(stage)
        return work


@dataclass(frozen=True)
class Worker:
    """A driver or executor: its size and how long it was there."""

    vcpu: float
    memory_gb: float
    seconds: float


def workers_of(spark: SparkSession, now: datetime) -> list[Worker]:
    """Return the driver and all executors that came so far; in local mode the driver is all there is."""
    conf, store = spark.sparkContext.getConf(), spark.sparkContext._jsc.sc().statusStore()  # noqa: SLF001
    listed = store.executorList(False)
    workers = []
    for position in range(listed.size()):
        executor = listed.apply(position)
        role = "driver" if executor.id() == "driver" else "executor"
        came = executor.addTime().getTime() / 1000
        gone = executor.removeTime().get().getTime() / 1000 if executor.removeTime().isDefined() else now.timestamp()
        local = role == "driver" and executor.totalCores() > 0
        vcpu = executor.totalCores() if local else int(conf.get(f"spark.{role}.cores", _WORKER_CORES))
        workers.append(Worker(float(vcpu), _memory_gb(conf, role), gone - came))
    return workers


def cost_estimate(workers: list[Worker], settings: Settings) -> dict[str, Any]:
    """What EMR Serverless would bill for these workers: each from its start to its end, at least a minute.

    vcpu_hours = Σ vCPU × hours; gb_hours = Σ GB × hours; cost = vcpu_hours × price + gb_hours × price. Not in it: the
    time in which a worker starts, storage above the first 20 GB of a worker, requests to S3 and DynamoDB.
    """
    hours = [max(worker.seconds, _LEAST_SECONDS) / 3600 for worker in workers]
    vcpu = sum(worker.vcpu * spent for worker, spent in zip(workers, hours, strict=True))
    memory = sum(worker.memory_gb * spent for worker, spent in zip(workers, hours, strict=True))
    return {
        "workers": len(workers),
        "vcpu_hours": round(vcpu, 6),
        "gb_hours": round(memory, 6),
        "usd": round(vcpu * settings.usd_per_vcpu_hour + memory * settings.usd_per_gb_hour, 6),
    }


def cost_so_far(spark: SparkSession, settings: Settings) -> dict[str, Any] | None:
    """Estimate what a run cost up to now; None where Spark doesn't tell its workers."""
    try:
        return cost_estimate(workers_of(spark, datetime.now(UTC)), settings)
    except Exception as error:  # noqa: BLE001 (see the module)
        _warn("cost of the run", error)
        return None


def _warn(what: str, error: Exception) -> None:
    first_line = str(error).strip().partition("\n")[0]
    warn(f"{what} unknown: this Spark does not tell it", detail=f"{type(error).__name__}: {first_line}"[:300])


def _memory_gb(conf: SparkConf, role: str) -> float:
    """Memory of a worker with its overhead, as Spark asks for it."""
    heap = gib(conf.get(f"spark.{role}.memory", _WORKER_MEMORY))
    overhead = conf.get(f"spark.{role}.memoryOverhead", "")
    return heap + (gib(overhead) if overhead else max(_OVERHEAD_LEAST, _OVERHEAD_SHARE * heap))


def gib(size: str) -> float:
    """Read a size as Spark writes it (`3g`, `512m`; without a unit: MiB) in GiB."""
    match = _SIZE.fullmatch(size.strip())
    if match is None:
        raise ValueError(f"{size!r} is no size such as 3g or 512m")
    return int(match[1]) * _GIB[match[2].lower()]
