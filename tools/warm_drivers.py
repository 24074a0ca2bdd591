"""Spark drivers that stay up: a job with the Spark settings of an earlier one goes to its driver, which is warm.

So EMR's pre-initialized workers do; here it also saves what Java learns in a run, most of the time of a small job.
Jobs that run at the same time have drivers of their own, and a job that is stopped takes its driver along.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.emulated_jobs import Job
from tools.spark_submit import APPLICATION

SECONDS_BETWEEN_LOOKS = 0.05
RETENTION_DAYS = 30


@dataclass(eq=False)
class Driver:
    """A `spark-submit` of this module; in its folder, it finds N.json of the Nth job and writes N.code at its end."""

    settings: object
    process: Job
    folder: Path
    jobs: int = 0
    is_busy: bool = False


class WarmJob:
    """A running job of a driver, with what `Job` has."""

    def __init__(self, driver: Driver, arguments: Sequence[str], logs: Path) -> None:
        logs.mkdir(parents=True)
        (logs / "command").write_text((driver.process.logs / "command").read_text("utf-8"), "utf-8")
        for name in ("stdout", "stderr"):
            (logs / name).touch()
        self._driver = driver
        self._code = driver.folder / f"{driver.jobs}.code"
        _write(driver.folder / f"{driver.jobs}.json", json.dumps([list(arguments), str(logs)]))
        driver.jobs += 1

    def wait(self, seconds: float) -> int | None:
        """Return the exit code, or None when the job still runs after `seconds`."""
        code = self._driver.process.wait(seconds)
        if self._code.exists():
            self._driver.is_busy = False
            return int(self._code.read_text())
        return code

    def stop(self) -> None:
        """End the job and its driver."""
        self._driver.process.stop()


class WarmDrivers:
    """All drivers of a server."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._drivers: list[Driver] = []
        self._lock = threading.Lock()

    def start(self, command: Sequence[str], env: Mapping[str, str], logs: Path) -> WarmJob:
        """Give a job of `spark-submit` to a driver with the same settings that has nothing to do, or to a new one."""
        at = command.index(str(APPLICATION))
        settings = (tuple(command[:at]), dict(env))
        with self._lock:
            free = [one for one in self._drivers if one.settings == settings and not one.is_busy]
            driver = next((one for one in free if one.process.wait(0) is None), None)
            if driver is None:
                folder = self._folder / str(len(self._drivers))
                whole = [*command[:at], str(Path(__file__).resolve()), str(folder)]
                driver = Driver(settings, Job(whole, env, folder), folder)
                self._drivers.append(driver)
            driver.is_busy = True
        return WarmJob(driver, command[at + 1 :], logs)

    def stop_all(self) -> None:
        """End all drivers."""
        for driver in self._drivers:
            driver.process.stop()


def _write(path: Path, text: str) -> None:
    """Write a file that is there only as a whole."""
    path.with_suffix(".part").write_text(text, "utf-8")
    path.with_suffix(".part").rename(path)


def serve(folder: Path) -> None:
    """Run job after job, until the process is stopped."""
    from spark_app.cli import main
    from spark_app.spark.session import build_session

    is_stopped = threading.Event()

    def stop(*_: object) -> None:
        is_stopped.set()
        raise KeyboardInterrupt  # as the application has it

    spark = build_session(RETENTION_DAYS)
    signal.signal(signal.SIGTERM, stop)
    for number in itertools.count():
        task = folder / f"{number}.json"
        while not task.exists():
            time.sleep(SECONDS_BETWEEN_LOOKS)
        arguments, logs = json.loads(task.read_text("utf-8"))
        for stream, name in ((sys.stdout, "stdout"), (sys.stderr, "stderr")):
            stream.flush()
            with (Path(logs) / name).open("ab") as log:
                os.dup2(log.fileno(), stream.fileno())
        try:
            code = main(arguments, spark=spark)
        except SystemExit as error:  # of a wrong command line
            code = int(error.code or 0)
        sys.stdout.flush()
        sys.stderr.flush()
        _write(folder / f"{number}.code", str(code))
        if is_stopped.is_set():
            return


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
