"""How a run's work splits: the same job on 1 and 2 cores, and on a cluster with 1, 2 and 4 executors of one core.

What more cores leave as it is, the driver's work most of all, is the serial share; from it follows what n cores take.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.data import cached_data
from bench.measure import measure, steps_of
from tests.support.spark_cluster import PURPOSES, Cluster, submit_command
from tools.jars import fetch_jars
from tools.spark_submit import APPLICATION, submit_environment
from tools.toolchain import BUILD, say

FOLDER = BUILD / "bench" / "split"
LISTENS = 2_000_000
CORES, EXECUTORS = (1, 2), (1, 2, 4)


def split(options: argparse.Namespace) -> dict[str, Any]:
    """Return and show seconds, CPU seconds of tasks, and by what two of a kind took, the seconds that are serial."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    fetch_jars(PURPOSES)
    source = cached_data(LISTENS)
    kinds: dict[str, dict[int, Mapping[str, float]]] = {"one process, cores": {}, "cluster, executors": {}}
    for cores in CORES:
        kinds["one process, cores"][cores] = run(source, {"spark.master": f"local[{cores}]"}, options.rounds)
    for executors in EXECUTORS:
        with cluster_conf(executors) as conf:
            kinds["cluster, executors"][executors] = run(source, conf, options.rounds)
    for kind, runs in kinds.items():
        for number, of in runs.items():
            print(f"{kind}: {number}: {of['seconds']:.1f} s, {of['cpu_seconds']:.0f} CPU s in tasks")
        serial = 2 * runs[2]["seconds"] - runs[1]["seconds"]
        of_n = {n: serial + (runs[1]["seconds"] - serial) / n for n in (4, 16)}
        print(
            f"{kind}: {serial:.1f} s are serial, {serial / runs[1]['seconds']:.0%} of what one takes; so "
            + ", ".join(f"{seconds:.0f} s on {n}" for n, seconds in of_n.items())
        )
    return {kind: {str(number): dict(of) for number, of in runs.items()} for kind, runs in kinds.items()}


def run(source: Path, conf: Mapping[str, str], rounds: int) -> Mapping[str, float]:
    """Return the medians of some runs: seconds, and CPU seconds of tasks, wherever these ran."""
    seconds, cpu = [], []
    for number in range(rounds):
        lake = FOLDER / "lake"
        shutil.rmtree(lake, ignore_errors=True)
        command = submit_command(APPLICATION, conf, ["run", "--input", str(source), "--lake", str(lake)])
        seconds.append(measure(command, submit_environment(os.environ, PURPOSES), FOLDER / "run.log").seconds)
        cpu.append(steps_of(lake)[-1]["cpu_seconds"])
        say(f"round {number + 1} of {rounds}: {conf['spark.master']}: {seconds[-1]:.1f} s")
    return {"seconds": statistics.median(seconds), "cpu_seconds": statistics.median(cpu)}


@contextmanager
def cluster_conf(executors: int) -> Iterator[Mapping[str, str]]:
    """Start a cluster with so many workers of one core; how to use it. All have this machine's cores, and its disk."""
    folder = FOLDER / "cluster"
    shutil.rmtree(folder, ignore_errors=True)
    cluster = Cluster.start(folder, workers=executors)
    try:
        yield cluster.conf() | {"spark.executor.memory": "2g", "spark.driver.memory": "3g"}
    finally:
        cluster.stop()
