"""The same commands on a cluster as in local mode: the same results, and a log in which nothing alarms."""

from __future__ import annotations

import time

import pytest

from tests.cluster.conftest import Runs
from tests.support.spark_cluster import Cluster, complaints

pytestmark = [pytest.mark.integration, pytest.mark.s3, pytest.mark.long, pytest.mark.timeout(3600)]
# Parts of lines that may say WARN or ERROR, each with the reason for which nothing can be done about it.
HARMLESS = {
    "NativeCodeLoader: Unable to load native-hadoop": "Spark from PyPI has no native library of Hadoop",
    "CoarseGrainedExecutorBackend: RECEIVED SIGNAL TERM": "the worker ends the executors of a run that is over",
    "S3AInstrumentation: Closing output stream statistics": "an upload was counted late: a figure is lost, and no data",
    "MetricsConfig: Cannot locate configuration": "S3A's metrics are not set up, and nobody asked for them",
}


@pytest.mark.parametrize("number", range(4), ids=["first day", "corrections", "rebuild", "compact"])
def test_like_local_mode(
    cluster: Cluster, cluster_runs: Runs, local_runs: Runs, number: int, subtests: pytest.Subtests
) -> None:
    started = time.time()
    end = cluster_runs.end(number)
    logs = {"driver": cluster_runs.driver_logs[number], **cluster.executor_logs(started)}
    with subtests.test("log"):
        assert len(logs) == 1 + len(cluster.workers)
        assert {name: found for name, text in logs.items() if (found := alarming(text))} == {}
    with subtests.test("results"):
        assert end == local_runs.end(number)


def alarming(text: str) -> list[str]:
    """Return lines that say WARN or ERROR, but those of `HARMLESS`."""
    return [line for line in complaints(text) if not any(part in line for part in HARMLESS)]
