"""How the emulated EMR Serverless runs a job: a real `spark-submit`, in the image where there is one, else directly.

What EMR's own hosts have and this machine has not is replaced: jars under /usr, the size of driver and executors.
Everything else of the job's parameters is handed on.
"""

from __future__ import annotations

import gzip
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tools.container import AWS_VARIABLES, HOME, ISOLATION
from tools.docker_engine import docker
from tools.spark_submit import SHORT_RUN_JAVA_OPTIONS, submit_command, submit_environment

SECONDS_TO_END = 10.0
LINES_QUOTED = 3
ENVIRONMENT_CONF = "spark.emr-serverless.driverEnv."
# Of a job's parameters, what names files of the image, or Java's options for it; outside of it our own count.
OF_THE_IMAGE = (
    "spark.jars",
    "extraClassPath",
    "extraJavaOptions",
    "defaultJavaOptions",
    "Env.PYSPARK_",
    "spark.master",
)
# The log store for several writers is in EMR's image only: the look-alike has no such jar.
OF_EMRS_IMAGE = ("spark.delta.logStore.", "delta-storage-s3-dynamodb.jar")
SMALL_CONF = {
    "spark.driver.memory": "2g",
    "spark.sql.shuffle.partitions": "2",
    "spark.dynamicAllocation.enabled": "false",
}

# Ends the job's process group when the pipe on standard input closes, that is when the server stops it or dies.
KEEPER = """
import os, signal, subprocess, sys, threading
child = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, start_new_session=True)
def watch():
    while os.read(0, 1):
        pass
    for number, patience in ((signal.SIGTERM, float(sys.argv[1])), (signal.SIGKILL, 60)):
        try:
            os.killpg(child.pid, number)
            child.wait(patience)
            break
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            pass
watcher = threading.Thread(target=watch, daemon=True)
watcher.start()
code = child.wait()
try:
    os.killpg(child.pid, signal.SIGKILL)
except ProcessLookupError:
    pass
os._exit(code if code >= 0 else 128 - code)
"""


@dataclass(frozen=True)
class JobRequest:
    """What StartJobRun asks for."""

    entry_point: str
    arguments: tuple[str, ...]
    parameters: str
    applied_conf: Mapping[str, str] = field(default_factory=dict)
    log_uri: str | None = None

    @classmethod
    def of(cls, job_driver: Mapping[str, Any], overrides: Mapping[str, Any] | None) -> JobRequest:
        """Read the parts of the API's request; `KeyError` when it is no Spark job."""
        submit = job_driver["sparkSubmit"]
        conf: dict[str, str] = {}
        for entry in (overrides or {}).get("applicationConfiguration") or []:
            if entry["classification"] == "spark-defaults":
                conf.update(entry.get("properties") or {})
        monitoring = (overrides or {}).get("monitoringConfiguration") or {}
        log_uri = (monitoring.get("s3MonitoringConfiguration") or {}).get("logUri")
        arguments = tuple(submit.get("entryPointArguments") or ())
        return cls(submit["entryPoint"], arguments, submit.get("sparkSubmitParameters") or "", conf, log_uri)

    def conf(self) -> dict[str, str]:
        """All Spark properties: of the application configuration, then of the parameters.

        Raises:
            ValueError: a parameter is not understood.
        """
        conf = dict(self.applied_conf)
        words = shlex.split(self.parameters)
        while words:
            word = words.pop(0)
            if word == "--conf" and words and "=" in words[0]:
                name, _, value = words.pop(0).partition("=")
                conf[name] = value
            else:
                raise ValueError(f"sparkSubmitParameters: '{word}' is not understood here, only --conf name=value")
        return conf


class AnyJob(Protocol):
    """A job that runs by itself, or in a driver that stays up."""

    def wait(self, seconds: float) -> int | None:
        """Return the exit code, or None when the job still runs after `seconds`."""

    def stop(self) -> None:
        """Ask the job to end, kill it if it doesn't; returns when it is gone."""


class Job:
    """A running job: its process, its logs and its end."""

    def __init__(self, command: list[str], env: Mapping[str, str], logs: Path) -> None:
        logs.mkdir(parents=True)
        self.logs = logs
        (logs / "command").write_text(shlex.join(command), "utf-8")
        with (logs / "stdout").open("wb") as stdout, (logs / "stderr").open("wb") as stderr:
            keeper = [sys.executable, "-c", KEEPER, str(SECONDS_TO_END), *command]
            self._process = subprocess.Popen(
                keeper, env=dict(env), stdin=subprocess.PIPE, stdout=stdout, stderr=stderr, start_new_session=True
            )

    @property
    def pid(self) -> int:
        """The keeper's process id."""
        return self._process.pid

    def wait(self, seconds: float) -> int | None:
        """Return the exit code, or None when the job still runs after `seconds`."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(seconds)
        return None

    def stop(self) -> None:
        """Ask the job to end, kill it if it doesn't; returns when it is gone."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(SECONDS_TO_END * 2)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def last_errors(logs: Path) -> str:
    """Return the last lines of a job's logs that tell of an error, else the last lines."""
    # spark-submit passes all that a Python program prints on to its own standard output.
    texts = [(logs / name).read_text("utf-8", errors="replace") for name in ("stderr", "stdout")]
    lines = [line.strip() for text in texts for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower() or "exception" in line.lower()]
    return " | ".join((errors or lines)[-LINES_QUOTED:])


def upload_logs(
    logs: Path, log_uri: str, application_id: str, job_id: str, put: Callable[[str, str, bytes], None]
) -> None:
    """Put the driver's logs where EMR puts them, packed."""
    bucket, _, prefix = log_uri.removeprefix("s3://").partition("/")
    for name in ("stdout", "stderr"):
        key = f"{prefix.rstrip('/')}/applications/{application_id}/jobs/{job_id}/SPARK_DRIVER/{name}.gz".lstrip("/")
        put(bucket, key, gzip.compress((logs / name).read_bytes()))


def direct_command(request: JobRequest, environ: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Return command and environment that run the application of this repository.

    Raises:
        ValueError: the entry point is not this application's, or a parameter is not understood.
    """
    if not request.entry_point.startswith("local:///") or not request.entry_point.endswith(".py"):
        raise ValueError(f"entry point {request.entry_point}: expected local:///….py, a file of the image")
    conf = {name: value for name, value in _without_log_store(request.conf()).items() if not _is_of_the_image(name)}
    env = submit_environment(environ, ("delta", "s3"), short_run=True)
    env |= {k.removeprefix(ENVIRONMENT_CONF): v for k, v in conf.items() if k.startswith(ENVIRONMENT_CONF)}
    handed = {k: v for k, v in conf.items() if not k.startswith("spark.emr-serverless.")} | SMALL_CONF
    options = [part for name, value in handed.items() for part in ("--conf", f"{name}={value}")]
    command = submit_command(request.arguments, ("delta", "s3"))
    application = len(command) - len(request.arguments) - 1
    return [*command[:application], *options, *command[application:]], env


def _is_of_the_image(name: str) -> bool:
    return any(part in name for part in OF_THE_IMAGE)


def _without_log_store(conf: Mapping[str, str]) -> dict[str, str]:
    option, jar = OF_EMRS_IMAGE
    kept = {name: value for name, value in conf.items() if not name.startswith(option)}
    if "spark.jars" in kept:
        kept["spark.jars"] = ",".join(path for path in kept["spark.jars"].split(",") if not path.endswith(jar))
    return kept


def image_command(
    request: JobRequest, environ: Mapping[str, str], image: str, name: str
) -> tuple[list[str], dict[str, str]]:
    """Return command and environment that run the same in a container of the local image, as EMR's driver.

    The container shares this machine's network, so that it reaches the emulated AWS on loopback.
    """
    conf = (
        _without_log_store(request.conf())
        | SMALL_CONF
        | {"spark.master": "local[2]", "spark.ui.showConsoleProgress": "false"}
    )
    handed = {k: v for k, v in conf.items() if not k.startswith("spark.emr-serverless.")}
    passed = {k: v for k, v in environ.items() if k in AWS_VARIABLES}
    passed |= {k.removeprefix(ENVIRONMENT_CONF): v for k, v in conf.items() if k.startswith(ENVIRONMENT_CONF)}
    passed |= {"TZ": "UTC", "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_CONF_DIR": f"{HOME}/conf/spark"}
    passed |= {"SPARK_SUBMIT_OPTS": SHORT_RUN_JAVA_OPTIONS}
    run = ["docker", "run", "--rm", "--name", name, *ISOLATION, "--network", "host"]
    run += [part for key in passed for part in ("--env", key)]
    run += [image, "driver", "--properties-file", f"{HOME}/conf/spark/local.conf"]
    run += [part for key, value in handed.items() for part in ("--conf", f"{key}={value}")]
    return [*run, request.entry_point, *request.arguments], {**os.environ, **passed}


def has_image(image: str) -> bool:
    """Tell whether Docker works here and has this image."""
    return shutil.which("docker") is not None and docker("image", "inspect", image, check=False).returncode == 0


def remove_container(name: str) -> None:
    """Remove what a killed `docker run` may have left."""
    docker("rm", "--force", name, check=False)


def when_over(job: AnyJob, timeout_s: float, is_stopped: threading.Event) -> tuple[str, int | None]:
    """Wait for a job and return how it ended (`ended`, `stopped` or `timed out`) and its exit code."""
    deadline = time.monotonic() + timeout_s
    while True:
        code = job.wait(0.2)
        if is_stopped.is_set():
            job.stop()
            return "stopped", None
        if code is not None:
            return "ended", code
        if time.monotonic() > deadline:
            job.stop()
            return "timed out", None
