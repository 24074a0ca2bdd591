"""Two applications on one lake at the same moment: the second waits, or is told who is there."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.conftest import InS3, Tell, Undisturbed
from tests.faults.harness import FAILED, Plan, Process, Workplace

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(3600)]
Finish = Callable[[int], list[str]]
STAGING = "staged/streams stage: before"
# One write at a time there: of several under way, Delta itself would refuse one first, in words of its own.
SAVING_PROGRESS = "ops/state.json progress: before"
# As on machines of their own, where nobody sees whether the other's process is alive: only the lease tells.
HERE, THERE = {"FAULTS_MACHINE": "here"}, {"FAULTS_MACHINE": "there"}


def holding(place: Workplace, command: list[str], point: str, **settings: object) -> tuple[Process, Path]:
    """Start the first application and stop it at a point; it goes on when the file is there."""
    release = place.folder / "release"
    process = place.start(command, "first", Plan(point, "hold", release=release), HERE, **settings)
    process.wait_for(point)
    return process, release


def refused(place: Workplace, command: list[str]) -> None:
    """See another one refused, in words that tell what to do."""
    process = place.start(command, "refused", None, THERE, lock_wait_seconds=1)
    assert process.wait() == FAILED, process.text[-4000:]
    told = next(line for line in process.text.splitlines() if line.startswith("error: "))
    assert "ops/lake.lock: the lake is in use by run first (process" in told
    assert "wait for it to end, or raise lock_wait_seconds" in told


def test_on_a_disk_others_are_refused_or_wait_and_a_killed_holder_is_replaced_at_once(
    place: Workplace, undisturbed: Undisturbed, finish: Finish, tell: Tell
) -> None:
    command = ["run", "--input", str(undisturbed.sample.first)]
    release = place.folder / "release"
    first = place.start(command, "first", Plan(STAGING, "hold", release=place.folder / "never"))
    first.wait_for(STAGING)
    refused(place, command)
    holds_later = Plan(SAVING_PROGRESS, "hold", release=release)
    second = place.start(command, "second", holds_later, lock_lease_seconds=3600, lock_wait_seconds=200)
    second.wait_for_text("waiting for the lake's lock")
    first.kill()
    second.wait_for(SAVING_PROGRESS)
    assert "took over the lake's lock from a dead run" in second.text
    third = place.start(command, "third", None, THERE, lock_wait_seconds=200)
    third.wait_for_text("waiting for the lake's lock")
    release.touch()
    assert second.wait() == 0, second.text[-4000:]
    assert third.wait() == 0, third.text[-4000:]
    assert "nothing new" in third.text
    differences = finish(0)
    tell("disk: one refused, one waits", equal=not differences, count=2)
    tell("disk: the holder is killed while another waits", equal=not differences)
    assert differences == []


def test_a_holder_that_was_asleep_writes_no_more(
    place: Workplace, undisturbed: Undisturbed, finish: Finish, tell: Tell
) -> None:
    """Stopped for longer than its lease, it wakes up when another has taken over, and has even finished."""
    command = ["run", "--input", str(undisturbed.sample.first)]
    first, release = holding(place, command, SAVING_PROGRESS, lock_lease_seconds=3)
    first.signal(signal.SIGSTOP)
    second = place.start(command, "second", None, THERE, lock_wait_seconds=60)
    assert second.wait() == 0, second.text[-4000:]
    release.touch()
    first.signal(signal.SIGCONT)
    assert first.wait() == FAILED, first.text[-4000:]
    assert "nothing more is written" in first.text
    differences = finish(0)
    tell("disk: the holder sleeps for longer than its lease", equal=not differences)
    assert differences == []


@pytest.mark.s3
def test_in_s3_the_second_is_refused_and_the_lease_outlives_its_holder(
    in_s3: InS3, undisturbed: Undisturbed, finish: Finish, tell: Tell
) -> None:
    command = ["run", "--input", str(undisturbed.sample.first)]
    place = in_s3.place()
    first, _ = holding(place, command, STAGING, lock_lease_seconds=12)
    refused(place, command)
    second = place.start(command, "second", None, THERE, lock_wait_seconds=200)
    second.wait_for_text("waiting for the lake's lock")
    first.kill()
    assert second.wait() == 0, second.text[-4000:]
    assert "took over the lake's lock from a dead run" in second.text
    in_s3.download()
    differences = finish(0)
    tell("S3A: one refused, one waits until the dead one's lease is over", equal=not differences, count=2)
    assert differences == []
