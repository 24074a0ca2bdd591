"""How a run splits among executors: what the driver does alone, and what its tasks do, by Spark's own event log."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.measure import measure
from tests.support.spark_cluster import PURPOSES, Cluster, submit_command
from tools.spark_submit import APPLICATION, submit_environment
from tools.toolchain import BUILD, say

FOLDER = BUILD / "bench" / "split"
EXECUTORS = (1, 2, 4)
LARGER = {
    "spark.driver.memory": "2g",
    "spark.executor.memory": "1500m",
    "spark.executor.extraJavaOptions": "-Duser.timezone=UTC -Dfile.encoding=UTF-8 -XX:+UseParallelGC",
}


@dataclass(frozen=True)
class Split:
    """Of one run. `alone_seconds`: no task ran. `task_seconds`, `task_cpu_seconds`: of all tasks, added up."""

    executors: int
    seconds: float
    driver_cpu_seconds: float
    alone_seconds: float
    task_seconds: float
    task_cpu_seconds: float
    tasks: int

    @property
    def serial_share(self) -> float:
        """What of all CPU seconds is the driver's, which no executor can take over."""
        return self.driver_cpu_seconds / (self.driver_cpu_seconds + self.task_cpu_seconds)


def run_split(source: Path, executors: int) -> Split:
    """Run our job once on a cluster of so many executors of one core each, and read its event log."""
    folder = FOLDER / f"{executors}"
    shutil.rmtree(folder, ignore_errors=True)
    events = folder / "events"
    events.mkdir(parents=True)
    cluster = Cluster.start(folder / "cluster", workers=executors)
    try:
        conf = cluster.conf() | LARGER | {"spark.eventLog.enabled": "true", "spark.eventLog.dir": events.as_uri()}
        command = submit_command(APPLICATION, conf, ["run", "--input", str(source), "--lake", str(folder / "lake")])
        run = measure(command, submit_environment(os.environ, PURPOSES), folder / "log")
    finally:
        cluster.stop()
    (log,) = events.iterdir()
    return read_events(log, executors, run.seconds, run.cpu_seconds)


def read_events(log: Path, executors: int, seconds: float, driver_cpu_seconds: float) -> Split:
    """Read what tasks took from a run's event log."""
    started = ended = 0
    spans, cpu, ran = [], 0, 0
    for event in (json.loads(line) for line in log.open(encoding="utf-8")):
        if event["Event"] == "SparkListenerApplicationStart":
            started = event["Timestamp"]
        elif event["Event"] == "SparkListenerApplicationEnd":
            ended = event["Timestamp"]
        elif event["Event"] == "SparkListenerTaskEnd":
            spans.append((event["Task Info"]["Launch Time"], event["Task Info"]["Finish Time"]))
            metrics = event.get("Task Metrics") or {}
            cpu += metrics.get("Executor CPU Time", 0) + metrics.get("Executor Deserialize CPU Time", 0)
            ran += metrics.get("Executor Run Time", 0) + metrics.get("Executor Deserialize Time", 0)
    busy = sum(end - begin for begin, end in _merged(spans))
    alone = (ended - started - busy) / 1e3
    return Split(executors, seconds, driver_cpu_seconds, alone, ran / 1e3, cpu / 1e9, len(spans))


def _merged(spans: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the time that any of these spans covers, as spans that don't overlap."""
    begin = end = 0
    for first, last in sorted(spans):
        if first > end:
            yield begin, end
            begin = first
        end = max(end, last)
    yield begin, end


def split(source: Path) -> dict[str, Any]:
    """Print how the same job splits on 1, 2 and 4 executors of one core each."""
    found = []
    for executors in EXECUTORS:
        one = run_split(source, executors)
        found.append(one)
        say(
            f"{one.executors} executors: {one.seconds:.0f} s; driver {one.driver_cpu_seconds:.0f} CPU s, "
            f"{one.alone_seconds:.0f} s without a task; {one.tasks:,} tasks: {one.task_cpu_seconds:.0f} CPU s in "
            f"{one.task_seconds:.0f} s; serial share of CPU {one.serial_share:.0%}"
        )
    return {str(one.executors): asdict(one) for one in found}
