"""Run the application in a container as EMR Serverless would: user hadoop, nothing writable but the lake and /tmp."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from kpi_common.conf_files import CONF_DIR_VARIABLE
from tools.docker_engine import docker
from tools.processes import run_to_end
from tools.spark_submit import SHORT_RUN_JAVA_OPTIONS

USER = "hadoop:hadoop"
HOME = "/opt/music-streaming-kpis"
DELTA_JARS = "/usr/share/aws/delta/lib/*"
# What a container may know of the AWS environment of its caller. Values go by name: none is in a command line.
AWS_VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
)
LOOPBACK = {"localhost", "127.0.0.1", "::1"}
# Java needs a name for its own host, and snappy has to map its library from a file.
ISOLATION = ["--read-only", "--tmpfs", "/tmp:exec,mode=1777", "--hostname", "localhost"]  # noqa: S108 (the container's)
ISOLATION += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
STOP_SECONDS = "30"


@dataclass(frozen=True)
class Job:
    """The application with its arguments in a container of an image; local places are mounted under their own names."""

    image: str
    arguments: Sequence[str]
    input: str | None
    lake: str
    name: str
    short_run: bool = False

    def command(self, environ: Mapping[str, str]) -> list[str]:
        """Return the whole `docker run …`."""
        options = ["--rm", "--name", self.name, *ISOLATION, "--network", self.network(environ), "--stop-timeout"]
        options += [STOP_SECONDS, *_mount(self.input, ",readonly"), *_mount(self.lake, "")]
        for name in ("TZ=UTC", "SPARK_LOCAL_IP=127.0.0.1", f"SPARK_CONF_DIR={HOME}/conf/spark"):
            options += ["--env", name]
        if CONF_DIR_VARIABLE in environ:
            options += [*_mount(environ[CONF_DIR_VARIABLE], ",readonly"), "--env", CONF_DIR_VARIABLE]
        if self.short_run:
            options += ["--env", f"SPARK_SUBMIT_OPTS={SHORT_RUN_JAVA_OPTIONS}"]
        for name in AWS_VARIABLES if self.uses_s3 else ():
            options += ["--env", name] if environ.get(name) else []
        return ["docker", "run", *options, self.image, *submit_command(self.arguments)]

    @property
    def uses_s3(self) -> bool:
        """Whether it needs a network at all."""
        return any(place is not None and "://" in place for place in (self.input, self.lake))

    def network(self, environ: Mapping[str, str]) -> str:
        """Return the network: none for local files, this machine's own for a server on it."""
        if not self.uses_s3:
            return "none"
        endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL") or ""
        return "host" if urlsplit(endpoint).hostname in LOOPBACK else "bridge"

    def run(self) -> int:
        """Run it to its end and return its exit code; when this process is stopped, so is the container."""
        with lake_of_the_container(self.image, self.lake):
            try:
                return run_to_end(self.command(os.environ), os.environ)
            finally:  # only where this process was stopped does it still run; it gets the time that EMR gives
                docker("stop", "--time", STOP_SECONDS, self.name, check=False)
                docker("rm", "--force", self.name, check=False)


def submit_command(arguments: Sequence[str]) -> list[str]:
    """Return the command inside the container: Spark's own, with the defaults for one machine."""
    options = ["--properties-file", f"{HOME}/conf/spark/local.conf", "--driver-class-path", DELTA_JARS]
    options += ["--conf", "spark.ui.showConsoleProgress=false"]
    return ["spark-submit", *options, f"local://{HOME}/main.py", *arguments]


@contextmanager
def lake_of_the_container(image: str, lake: str) -> Iterator[None]:
    """Within the block a local lake belongs to the container's user; afterwards again to the one who calls."""
    if "://" in lake:
        yield
        return
    Path(lake).mkdir(parents=True, exist_ok=True)
    _give(image, lake, USER)
    try:
        yield
    finally:
        _give(image, lake, f"{os.getuid()}:{os.getgid()}")


def _give(image: str, folder: str, owner: str) -> None:
    """Change the owner of a folder, which only root may: in a container that sees nothing but this folder."""
    capabilities = ["--cap-drop", "ALL", "--cap-add", "CHOWN", "--cap-add", "DAC_READ_SEARCH"]
    options = ["--rm", "--network", "none", "--read-only", "--user", "0:0", *capabilities, *_mount(folder, "")]
    docker("run", *options, "--entrypoint", "chown", image, "--recursive", "--no-dereference", owner, folder)


def _mount(place: str | None, more: str) -> list[str]:
    if place is None or "://" in place:
        return []
    # A comma in a name would end it: docker reads the value as CSV, in which quotes keep it together.
    fields = ["type=bind", f'"source={place}"', f'"target={place}"']
    return ["--mount", ",".join(fields) + more]
