"""The KPI API under load: 200 requests a second, each sent when it is due, whether those before are answered or not."""

from __future__ import annotations

import argparse
import http.client
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import quantiles
from typing import Any

from bench.measure import BenchError
from tests.support.large_export import kpi_items, write_large_export
from tools.dynamodb_local import DynamoDBLocal, free_port
from tools.toolchain import BUILD, ROOT

RATE = 200
SECONDS = 20
WARM_UP = 400  # requests, which are not counted
CONNECTIONS = 24
ITEMS = 10_000
PATHS = ("/v1/kpis/daily/{day}/{genre}", "/v1/top-songs/{day}/{genre}", "/v1/kpis/hourly/{day}", "/v1/kpis/daily/{day}")


def api(options: argparse.Namespace) -> dict[str, Any]:  # noqa: ARG001 (as all scenarios)
    """Serve some 20 days from DynamoDB Local; return and show how long requests took from when they were due."""
    lake = BUILD / "bench" / "api"
    shutil.rmtree(lake, ignore_errors=True)
    lake.mkdir(parents=True)
    days = kpi_items(ITEMS)
    write_large_export(lake, 1, days)
    with DynamoDBLocal() as dynamodb:
        environment = {**os.environ, **dynamodb.environment, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'dags'}"}
        deliver = [sys.executable, "-m", "kpi_pipeline", "deliver", "--lake", str(lake)]
        subprocess.run(deliver, env=environment, check=True)
        port = free_port()
        server = [
            sys.executable,
            "-m",
            "uvicorn",
            "api.local:app",
            "--port",
            str(port),
            "--log-level",
            "error",
            "--workers",
            "2",
        ]
        process = subprocess.Popen(server, cwd=ROOT, env=environment, start_new_session=True)
        try:
            _wait_for(port)
            draw = random.Random(1)  # noqa: S311
            paths = [_path(draw, list(days)) for _ in range(WARM_UP + RATE * SECONDS)]
            _send(port, paths[:WARM_UP])
            seconds = _send(port, paths[WARM_UP:])
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # uvicorn would wait for connections that nobody uses any more
            process.wait()
    cuts = quantiles(seconds, n=100)
    found = {"requests": len(seconds), "rate": RATE, "p50_ms": cuts[49] * 1000, "p99_ms": cuts[98] * 1000}
    print(
        f"\nKPI API: {len(seconds):,} requests at {RATE} a second: half of them in {found['p50_ms']:.1f} ms, "
        f"99 % in {found['p99_ms']:.1f} ms, the slowest in {max(seconds) * 1000:.1f} ms"
    )
    return {**found, "max_ms": max(seconds) * 1000}


def _path(draw: random.Random, days: Sequence[str]) -> str:
    return draw.choice(PATHS).format(day=draw.choice(days[:-1]), genre=f"genre-{draw.randrange(113):03d}")


def _wait_for(port: int) -> None:
    for _ in range(300):
        try:
            http.client.HTTPConnection("127.0.0.1", port, timeout=5).request("GET", "/health")
            return
        except OSError:
            time.sleep(0.1)
    raise BenchError("the API did not start")


def _send(port: int, paths: Sequence[str]) -> list[float]:
    """Send the requests, evenly spaced; return how many seconds after it was due each was answered."""
    own = threading.local()
    start = time.perf_counter() + 0.1

    def ask(number: int) -> float:
        due = start + number / RATE
        time.sleep(max(0, due - time.perf_counter()))
        if not hasattr(own, "connection"):
            own.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        own.connection.request("GET", paths[number])
        answer = own.connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise BenchError(f"{paths[number]}: {answer.status}")
        return time.perf_counter() - due

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        return list(pool.map(ask, range(len(paths))))
