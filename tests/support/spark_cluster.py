"""A Spark standalone cluster on this machine: a master and workers, each a process group of its own.

Workers have what EMR's workers have: the same programs, and credentials of their own. They have none of the driver's
environment, another working folder and another time zone.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tools.jars import jars_for
from tools.spark_submit import ROOT, spark_home, submit_options

PURPOSES = ("delta", "s3")
START_S = 60
_MASTER_URL = re.compile(r"Starting Spark master at (spark://\S+)")
_JAVA = "-Duser.timezone=UTC -Dfile.encoding=UTF-8 -XX:+UseSerialGC"
# Of a line in Spark's log: levels that a user looks at.
_COMPLAINT = re.compile(r"^.{0,40}\b(WARN|ERROR|FATAL)\b.*$", re.MULTILINE)


@dataclass
class Cluster:
    """A running master and its workers; `conf` makes `spark-submit` use it."""

    folder: Path
    master: str
    workers: list[Path]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @classmethod
    def start(cls, folder: Path, workers: int = 2, cores: int = 1) -> Cluster:
        """Start all of it and wait until the workers are known to the master."""
        cluster = cls(folder, "", [folder / f"worker-{number}" for number in range(workers)])
        try:
            own = ["--host", "127.0.0.1", "--port", "0", "--webui-port", "0"]
            log = cluster._spawn(folder / "master", "master.Master", own)
            cluster.master = _wait_for(log, _MASTER_URL).group(1)
            for place in cluster.workers:
                options = [*own, "--cores", str(cores), "--memory", "4g", "--work-dir", str(place / "work")]
                _wait_for(
                    cluster._spawn(place, "worker.Worker", [*options, cluster.master]),
                    re.compile("Successfully registered with master"),
                )
        except BaseException:
            cluster.stop()
            raise
        return cluster

    def _spawn(self, place: Path, role: str, options: Sequence[str]) -> Path:
        for name in ("local", "tmp", "home"):
            (place / name).mkdir(parents=True)
        command = [str(spark_home() / "bin" / "spark-class"), f"org.apache.spark.deploy.{role}", *options]
        environment = {
            **{name: os.environ[name] for name in ("PATH", "JAVA_HOME") if name in os.environ},
            "SPARK_HOME": str(spark_home()),
            "SPARK_NO_DAEMONIZE": "1",
            "SPARK_LOCAL_IP": "127.0.0.1",
            "SPARK_LOCAL_DIRS": str(place / "local"),
            "SPARK_DAEMON_MEMORY": "256m",
            # What the image brings along.
            "PYSPARK_PYTHON": sys.executable,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "dags")]),
            # What EMR gives to each worker.
            "AWS_ACCESS_KEY_ID": place.name,
            "AWS_SECRET_ACCESS_KEY": "any",
            "TZ": "Asia/Tokyo",
            "HOME": str(place / "home"),
            "TMPDIR": str(place / "tmp"),
        }
        log = place / "log"
        with log.open("wb") as stream:
            self.processes.append(
                subprocess.Popen(
                    command,
                    env=environment,
                    cwd=place,
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )
        return log

    def stop(self) -> None:
        """End all processes; workers end their executors."""
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def conf(self) -> dict[str, str]:
        """What `spark-submit` is given in place of local mode: executors of one core, with the jars of the image."""
        return {
            "spark.master": self.master,
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.driver.memory": "1g",
            "spark.driver.extraJavaOptions": _JAVA,
            "spark.executor.cores": "1",
            "spark.executor.memory": "800m",
            "spark.executor.extraJavaOptions": f"{_JAVA} -XX:TieredStopAtLevel=1",
            "spark.executor.extraClassPath": ":".join(str(path) for path in jars_for(PURPOSES).values()),
            "spark.scheduler.minRegisteredResourcesRatio": "1.0",
        }

    def executors(self) -> dict[int, Path]:
        """By process id, the folders of the executors that run: their work, with their log."""
        found = {}
        for place in self.workers:
            for pid in (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()):
                try:
                    folder, command = Path(f"/proc/{pid}/cwd").readlink(), Path(f"/proc/{pid}/cmdline").read_bytes()
                except OSError:
                    continue
                if folder.is_relative_to(place / "work") and b"CoarseGrainedExecutorBackend" in command:
                    found[pid] = folder
        return found

    def lose_executor(self, random: Random) -> str:
        """Kill one executor with SIGKILL, and delete what it had on its disk; return which."""
        while not (running := self.executors()):  # all are gone, and new ones begin
            time.sleep(0.1)
        pid = random.choice(sorted(running))
        place = next(place for place in self.workers if running[pid].is_relative_to(place))
        os.kill(pid, signal.SIGKILL)
        for blocks in (place / "local").glob("**/blockmgr-*"):
            shutil.rmtree(blocks, ignore_errors=True)
        return place.name

    def executor_logs(self, since: float) -> dict[str, str]:
        """By application and executor, what executors that were started since then have logged."""
        logs = [path for place in self.workers for path in (place / "work").glob("app-*/*/stderr")]
        return {
            # Whole lines: an executor that is being ended may still be writing one.
            "/".join(path.parts[-5:-1]): path.read_text("utf-8", errors="replace").rpartition("\n")[0]
            for path in logs
            if path.parent.stat().st_ctime >= since
        }


def submit_command(application: Path, conf: Mapping[str, str], arguments: Sequence[str]) -> list[str]:
    """Return the `spark-submit` of an application, with jars for S3, and a conf that goes before `conf/spark`'s."""
    options = [part for name, value in conf.items() for part in ("--conf", f"{name}={value}")]
    return [
        str(spark_home() / "bin" / "spark-submit"),
        *submit_options(PURPOSES),
        *options,
        str(application),
        *arguments,
    ]


def complaints(text: str) -> list[str]:
    """Return the lines of a log that say WARN or ERROR."""
    return [match.group(0) for match in _COMPLAINT.finditer(text)]


def _wait_for(log: Path, wanted: re.Pattern[str]) -> re.Match[str]:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if found := wanted.search(log.read_text("utf-8", errors="replace")):
            return found
        time.sleep(0.1)
    raise AssertionError(f"{log}: no {wanted.pattern!r} after {START_S} s: {log.read_text('utf-8')[-2000:]}")
