"""DynamoDB Local, AWS's own engine, as a server on a free port of this machine.

    with DynamoDBLocal() as server:            # in memory; DynamoDBLocal(folder) keeps its data
        boto3.client("dynamodb", endpoint_url=server.url, **CREDENTIALS)

The jars of `dynamodb_jars.txt` are got once, into `.build/dynamodb-local/`, and checked against their sha256.
`python -m tools.dynamodb_local [FOLDER]` runs a server until it is interrupted.
"""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tools import jars
from tools.toolchain import network_environment

JAR_LIST = Path(__file__).with_name("dynamodb_jars.txt")
FOLDER = jars.ROOT / ".build" / "dynamodb-local"
MAIN_CLASS = "com.amazonaws.services.dynamodbv2.local.main.ServerRunner"
REGION = "eu-central-1"
ACCESS_KEY = "local"
CREDENTIALS: dict[str, Any] = {
    "region_name": REGION,
    "aws_access_key_id": ACCESS_KEY,
    "aws_secret_access_key": "local",
}
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 10
TRIES = 3
DOWNLOADS_AT_ONCE = 8

# Starts the server in a process group of its own and ends that group when the pipe on standard input closes,
# that is when the parent stops it or dies, however it dies.
KEEPER = """
import os, signal, subprocess, sys
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True)
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGCHLD, lambda *_: os._exit(1) if child.poll() is not None else None)
try:
    while child.poll() is None and sys.stdin.buffer.read(1):
        pass
finally:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    child.wait()
"""


class DynamoDBLocalError(Exception):
    """DynamoDB Local did not start; the message has the end of its output."""


def get_jars() -> list[Path]:
    """Return the server's jars, getting those that are missing; one process at a time."""
    paths = {jar: FOLDER / "jars" / jar.file_name for jar in jars.read_jar_list(JAR_LIST)}
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = [jar for jar, path in paths.items() if not jars.is_checked(jar, path)]
        if missing:
            print(f"getting DynamoDB Local, {len(missing)} jars (once) …", file=sys.stderr, flush=True)
            os.environ.update(network_environment(os.environ))
            with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
                list(pool.map(lambda jar: _get(jar, paths[jar]), missing))
    return list(paths.values())


def _get(jar: jars.Jar, path: Path) -> None:
    jars.get_jar(jar, path, FOLDER / ".maven")


class DynamoDBLocal:
    """A server that lives as long as the `with` block, and never longer than this process."""

    def __init__(self, data: Path | None = None) -> None:
        """Keep the data in the folder `data`, or in memory."""
        self._data = data
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """What clients take as the endpoint."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What the AWS libraries of another process need to use this server."""
        return {
            "AWS_ENDPOINT_URL_DYNAMODB": self.url,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": "local",
        }

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server and wait until it answers."""
        class_path = os.pathsep.join(map(str, get_jars()))
        FOLDER.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, TRIES + 1):
            self.port = free_port()
            try:
                self._start(class_path)
                return
            except DynamoDBLocalError:
                # Somebody may have taken the port between our look and the server's start.
                self.stop()
                if attempt == TRIES:
                    raise

    def stop(self) -> None:
        """End the server and whatever it started."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _start(self, class_path: str) -> None:
        log = FOLDER / f"server-{os.getpid()}-{self.port}.log"
        where = ["-inMemory"]
        if self._data is not None:
            self._data.mkdir(parents=True, exist_ok=True)
            where = ["-dbPath", str(self._data.resolve())]
        server = [java(), "-Xmx1g", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", class_path, MAIN_CLASS]
        options = ["-sharedDb", "-disableTelemetry", "-port", str(self.port)]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-c", KEEPER, *server, *where, *options],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=FOLDER,
                start_new_session=True,
            )
        try:
            self._wait_until_it_answers(log)
        finally:
            log.unlink()

    def _wait_until_it_answers(self, log: Path) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                output = log.read_text("utf-8", errors="replace")[-2000:]
                raise DynamoDBLocalError(f"DynamoDB Local did not start on port {self.port}:\n{output}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        """Whether it is DynamoDB that answers: it refuses unsigned requests in a way of its own."""
        try:
            urllib.request.urlopen(self.url, timeout=2)  # noqa: S310 (always http)
        except urllib.error.HTTPError as error:
            with contextlib.suppress(ValueError, AttributeError):
                return "dynamodb" in json.loads(error.read())["__type"]
        except OSError:
            pass
        return False


def free_port() -> int:
    """Return a port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def java() -> str:
    """Return the command `java`: of JAVA_HOME, else the one on PATH."""
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=str(Path(home) / "bin")) if home else shutil.which("java")
    if found is None:
        raise DynamoDBLocalError("no java found: set JAVA_HOME, or use ./build.sh, which gets one")
    return found


def main(arguments: list[str]) -> int:
    """Run a server until Ctrl-C."""
    with DynamoDBLocal(Path(arguments[0]) if arguments else None) as server:
        print(f"DynamoDB Local answers at {server.url}; Ctrl-C ends it", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
