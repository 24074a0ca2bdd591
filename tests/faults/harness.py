"""Start the application as a process group of its own, kill it at a point, start it again, and compare the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from mypy_boto3_dynamodb import DynamoDBClient

from tests.conftest import TEST_CONF
from tests.faults.content import LakeSnapshot, delivered_items
from tests.faults.points import VARIABLE
from tests.integration.delivery_helpers import run_delivery
from tools.spark_submit import ROOT, spark_home, submit_environment, submit_options

LAUNCHER = ROOT / "tests" / "faults" / "launcher.py"
TIMEOUT_S = 900
# Small parts, so that an export has several.
SETTINGS: dict[str, object] = {"export_part_items": 10}
# One thread for garbage, as several cost more than they gain here, and room for all classes from the beginning.
JAVA_OPTIONS = "-Duser.timezone=UTC -XX:+UseSerialGC -XX:MetaspaceSize=256m -Ddelta.log.cacheSize=20"
SMALL_JAVA = {"spark.driver.memory": "768m", "spark.driver.extraJavaOptions": JAVA_OPTIONS}
KILLED = -signal.SIGKILL
FAILED = 1


@dataclass(frozen=True)
class Plan:
    """What is to happen at which point: see `tests.faults.points`."""

    point: str | None = None
    do: str = "kill"
    nth: int = 1
    total: int | None = None
    delay: float = 0
    release: Path | None = None

    def as_json(self, trace: Path) -> dict[str, Any]:
        """Return what `tests.faults.points` reads."""
        wanted = {name: str(v) if isinstance(v, Path) else v for name, v in vars(self).items() if v is not None}
        return {"trace": str(trace), **wanted}


@dataclass
class Process:
    """A started process group and the trace of its points."""

    popen: subprocess.Popen[str]
    trace_file: Path
    output: Path
    started: float = field(default_factory=time.monotonic)

    @property
    def trace(self) -> list[str]:
        """The points reached so far, in order."""
        return self.trace_file.read_text("utf-8").splitlines() if self.trace_file.exists() else []

    def wait(self, timeout: float = TIMEOUT_S) -> int:
        """Wait for the end and return the exit code; nothing of the group is left then."""
        try:
            return self.popen.wait(timeout)
        finally:
            self.kill()

    def wait_for(self, point: str, timeout: float = TIMEOUT_S) -> None:
        """Wait until a point is reached."""
        self.wait_until(lambda: point in self.trace, point, timeout)

    def wait_until_asleep(self, point: str, timeout: float = TIMEOUT_S) -> None:
        """Wait until a point is reached at which the whole group is stopped."""

        def stopped() -> bool:
            state = Path(f"/proc/{self.popen.pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0]
            return state == "T" and any(line.startswith(point) for line in self.trace)

        self.wait_until(stopped, f"sleep at {point}", timeout)

    def wait_for_text(self, text: str, timeout: float = TIMEOUT_S) -> None:
        """Wait until a text is printed."""
        self.wait_until(lambda: text in self.text, text, timeout)

    def wait_until(self, done: Callable[[], bool], what: str, timeout: float) -> None:
        """Wait until something is so, while the process lives."""
        deadline = time.monotonic() + timeout
        while not done():
            assert self.popen.poll() is None, f"ended before {what}: {self.text[-2000:]}"
            assert time.monotonic() < deadline, f"not reached in time: {what}"
            time.sleep(0.02)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole group."""
        with suppress(ProcessLookupError):
            os.killpg(self.popen.pid, number)

    def kill(self) -> None:
        """Kill the whole group and wait until it is gone, Java too."""
        self.signal(signal.SIGKILL)
        self.popen.wait()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                os.killpg(self.popen.pid, 0)
            except (ProcessLookupError, PermissionError):
                return
            time.sleep(0.01)

    @property
    def text(self) -> str:
        """What it has printed."""
        return self.output.read_text("utf-8", errors="replace")


@dataclass
class RunsInOneProcess:
    """A process group that runs the application again and again: Java is started once."""

    popen: subprocess.Popen[str]
    output: Path
    orders: TextIO

    def start(self, place: Workplace, command: Sequence[str], run_id: str, plan: Plan, **settings: object) -> Process:
        """Start a run; `ended` waits for its end."""
        trace = place.folder / f"trace-{run_id}"
        order = {"plan": plan.as_json(trace), "arguments": place.arguments(command, run_id, settings)}
        self.orders.write(f"{json.dumps(order)}\n")
        self.orders.flush()
        return Process(self.popen, trace, self.output)

    def ended(self, run: Process, timeout: float = TIMEOUT_S) -> int:
        """Wait for the end of a run and return its exit code."""
        end = run.trace_file.with_suffix(".ended")
        run.wait_until(lambda: end.exists() and end.read_text() != "", "the end", timeout)
        return int(end.read_text())


@dataclass(frozen=True)
class Workplace:
    """A folder with one lake; processes are started on it one after another."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    lake_uri: str = ""
    purposes: tuple[str, ...] = ("delta",)

    @property
    def lake(self) -> Path:
        """The lake as a local folder."""
        return self.folder / "lake"

    def start(
        self,
        command: Sequence[str],
        run_id: str,
        plan: Plan | None = None,
        env: Mapping[str, str] | None = None,
        **settings: object,
    ) -> Process:
        """Start a command of the application."""
        given = {**os.environ, **self.environment, **(env or {})}
        environment = submit_environment(given, self.purposes, short_run=True)
        return self.start_process([*self._submit(), *self.arguments(command, run_id, settings)], environment, plan)

    def start_for_many_runs(self) -> RunsInOneProcess:
        """Start the application's process, which then takes runs of any lake, one after another."""
        environment = submit_environment({**os.environ, **self.environment}, self.purposes, short_run=True)
        orders = self.folder / "orders"  # spark-submit hands on no standard input
        os.mkfifo(orders)
        plan = json.dumps({"trace": str(self.folder / "trace"), "orders": str(orders)})
        process = self.start_process(self._submit(), environment | {VARIABLE: plan}, None)
        return RunsInOneProcess(process.popen, process.output, orders.open("w"))

    def arguments(self, command: Sequence[str], run_id: str, settings: Mapping[str, object]) -> list[str]:
        """Return the application's command line."""
        chosen = [part for name, value in {**SETTINGS, **settings}.items() for part in ("--set", f"{name}={value}")]
        lake = self.lake_uri or str(self.lake)
        return [*command, "--lake", lake, "--run-id", run_id, *chosen, "--log-format", "text"]

    def _submit(self) -> list[str]:
        conf = TEST_CONF | SMALL_JAVA
        options = [part for name, value in conf.items() for part in ("--conf", f"{name}={value}")]
        return [str(spark_home() / "bin" / "spark-submit"), *submit_options(self.purposes), *options, str(LAUNCHER)]

    def start_process(self, command: Sequence[str], environment: dict[str, str], plan: Plan | None) -> Process:
        """Start any command in a group of its own."""
        number = len(list(self.folder.glob("output-*")))
        trace, output = self.folder / f"trace-{number}", self.folder / f"output-{number}"
        if plan is not None:
            environment = {**environment, VARIABLE: json.dumps(plan.as_json(trace))}
        with output.open("w") as stream:
            popen = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
                cwd=self.folder,
            )
        return Process(popen, trace, output)

    def run(self, command: Sequence[str], run_id: str, plan: Plan | None = None) -> Process:
        """Run a command of the application to its end, whatever that is."""
        process = self.start(command, run_id, plan)
        process.wait()
        return process

    def run_well(self, command: Sequence[str], run_id: str) -> Process:
        """Run a command of the application, which must succeed."""
        process = self.run(command, run_id)
        assert process.popen.returncode == 0, process.text[-4000:]
        return process

    def break_off(self, command: Sequence[str], run_id: str, plan: Plan) -> Break:
        """Start a command and see it broken off as planned: killed at a point, or failed as a reply was lost."""
        point = str(plan.point)
        process = self.start(command, run_id, plan)
        code = process.wait()
        if plan.do == "lose" and code == FAILED and point in process.trace:
            return Break(point, "reply lost")
        proof = process.trace[-1] if process.trace else ""
        if plan.do == "kill" and code == KILLED and proof.startswith(point):
            return Break(point, proof.removeprefix(point).strip(" ()"))
        raise NotReachedError(f"{plan}: ended with {code} after {process.trace[-3:]}: {process.text[-3000:]}")

    def live(self, command: Sequence[str], plans: Sequence[Plan]) -> list[Break]:
        """Break a command off again and again, start it anew as Airflow does, and let the last one end well."""
        breaks = [self.break_off(command, f"life.t{number}", plan) for number, plan in enumerate(plans, start=1)]
        self.run_well(command, f"life.t{len(plans) + 1}")
        return breaks

    def deliver(self, prefix: str) -> Any:
        """Deliver the newest export, in this process."""
        return run_delivery(self.lake, prefix)


class NotReachedError(AssertionError):
    """A process ended before it came to the point at which it was to be broken off."""


@dataclass(frozen=True)
class Break:
    """A point at which a process was broken off, and what more there is to say of it."""

    point: str
    note: str = ""


@dataclass(frozen=True)
class End:
    """All that must be equal at the end."""

    lake: dict[str, Any]
    items: dict[str, Any]

    def differences(self, other: End) -> list[str]:
        """Return a line for each part that differs."""
        lines = []
        for what, ours, theirs in (("lake", self.lake, other.lake), ("DynamoDB", self.items, other.items)):
            for name in sorted(ours.keys() | theirs.keys()):
                here, there = ours.get(name), theirs.get(name)
                if here != there:
                    lines += [f"{what}, {name}: {_first_difference(here, there)}"]
        return lines


def end_of(place: Workplace, client: DynamoDBClient, prefix: str) -> End:
    """Read the lake and DynamoDB."""
    return End(LakeSnapshot(place.lake).everything(), delivered_items(client, prefix))


def _first_difference(ours: Any, theirs: Any) -> str:
    if isinstance(ours, list) and isinstance(theirs, list):
        only = [row for row in ours if row not in theirs], [row for row in theirs if row not in ours]
        return f"{len(ours)} and {len(theirs)}; only here {only[0][:3]}, only there {only[1][:3]}"
    return f"{ours!r} and {theirs!r}"
