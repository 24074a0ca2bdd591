"""Executors are killed again and again, and what they had on their disks is gone: the run ends right by itself."""

from __future__ import annotations

import time
from functools import partial
from random import Random

import pytest

from tests.cluster.conftest import Bucket, Runs, start_application
from tests.faults.conftest import Tell
from tests.faults.harness import TIMEOUT_S, Plan, Process
from tests.support.spark_cluster import Cluster

pytestmark = [pytest.mark.integration, pytest.mark.s3, pytest.mark.long, pytest.mark.timeout(3600)]
NOBODY_DIES = Plan("none")  # only the points are noted
# In the order in which a run comes to them; at which of several times.
POINTS = (
    ("ops/state.json open: before", 1),
    ("quarantine/records quarantine: before", 1),
    ("staged/songs stage: before", 1),
    ("staged/streams stage: before", 1),
    ("staged/streams stage: after", 1),
    ("keep a frame: before", 2),
    ("keep a frame: after", 3),
    ("keep a frame: after", 7),
    ("kpis/hourly publish: before", 1),
    ("export_seq.json: after", 1),
)
STEPS = ("validate", "stage", "count staged rows", "compute and audit KPIs", "publish KPIs")
LOST_IN_A_RUN = 5


@pytest.mark.parametrize("first", range(0, len(POINTS), LOST_IN_A_RUN))
def test_at_points(cluster: Cluster, bucket: Bucket, local_runs: Runs, first: int, tell: Tell) -> None:
    process = start_application(bucket.place(f"points-{first}"), cluster.conf(), bucket.source(0), "run-0", NOBODY_DIES)
    lost = []
    for point, nth in POINTS[first : first + LOST_IN_A_RUN]:
        process.wait_until(partial(is_reached, process, point, nth), point, TIMEOUT_S)
        lost.append((f"{point}, {nth}", cluster.lose_executor(Random(point))))
    ends_right(process, bucket, f"points-{first}", local_runs, lost, tell)


@pytest.mark.parametrize("seed", range(2))
def test_at_random_moments(cluster: Cluster, bucket: Bucket, local_runs: Runs, seed: int, tell: Tell) -> None:
    """At moments in steps that the seed chooses, the longer a step, the likelier."""
    local_runs.end(0)
    random, lake = Random(seed), f"moments-{seed}"
    lasting = {step["name"]: step["seconds"] for step in bucket.result("local", "run-0")["steps"]}
    steps = sorted(random.choices(STEPS, [lasting[name] for name in STEPS], k=LOST_IN_A_RUN), key=STEPS.index)
    process = start_application(bucket.place(lake), cluster.conf(), bucket.source(0), "run-0", NOBODY_DIES)
    lost = []
    for step in steps:
        process.wait_for_text(f"{step} …")
        time.sleep(seconds := random.uniform(0, lasting[step] / steps.count(step)))
        lost.append((f"{seconds:.1f} s later in {step}", cluster.lose_executor(random)))
    ends_right(process, bucket, lake, local_runs, lost, tell)


def is_reached(process: Process, point: str, nth: int) -> bool:
    """Whether a run has come to a point so many times."""
    return process.trace.count(point) >= nth


def ends_right(
    process: Process, bucket: Bucket, lake: str, local_runs: Runs, lost: list[tuple[str, str]], tell: Tell
) -> None:
    """Check that the run itself ends, with what an undisturbed one leaves in local mode."""
    assert process.wait() == 0, process.text[-4000:]
    equal = bucket.end(lake, 0) == local_runs.end(0)
    for where, worker in lost:
        tell(f"executor lost: {where}", worker, equal=equal)
    assert equal
