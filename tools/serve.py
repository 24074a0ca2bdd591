"""`./build.sh serve`: the KPI API on this machine, with what a lake has exported, in DynamoDB Local."""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import webbrowser
from collections.abc import Sequence

from tools.dynamodb_local import DynamoDBLocal
from tools.main_job import DEFAULT_LAKE, dynamodb_folder, whole_path
from tools.toolchain import ROOT, say

WORKERS = 2  # processes


def main(arguments: Sequence[str]) -> int:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="./build.sh serve", description=__doc__)
    parser.add_argument("--lake", metavar="DIR|s3://…", default=str(DEFAULT_LAKE), help="default: .build/lake")
    parser.add_argument("--port", type=int, default=8000, help="default: 8000")
    parser.add_argument("--no-browser", action="store_true", help="don't open /docs in a browser")
    options = parser.parse_args(arguments)
    lake = whole_path(options.lake)
    if lake == str(DEFAULT_LAKE) and not DEFAULT_LAKE.exists():
        parser.error(f"{lake} is not there yet: ./build.sh run makes it")
    try:
        socket.create_server(("127.0.0.1", options.port)).close()
    except (OSError, OverflowError) as error:
        parser.error(f"--port {options.port}: {error}; name another")
    with DynamoDBLocal(dynamodb_folder(lake)) as server:
        os.environ.update(server.environment)
        deliver = [sys.executable, "-m", "kpi_pipeline", "deliver", "--lake", lake]
        delivered = subprocess.run(deliver, env={**os.environ, "PYTHONPATH": str(ROOT / "dags")}, check=False)
        if delivered.returncode != 0:
            return delivered.returncode
        serve(options.port, open_browser=not options.no_browser)
    return 0


def serve(port: int, *, open_browser: bool) -> None:
    """Run the server until it is interrupted."""
    import uvicorn

    address = f"http://127.0.0.1:{port}"
    say(f"KPI API: {address}/docs  (Ctrl-C ends it)")
    if open_browser and (sys.platform == "darwin" or os.environ.get("DISPLAY")):
        webbrowser.open(f"{address}/docs")
    uvicorn.run(
        "api.local:app",
        host="127.0.0.1",
        port=port,
        workers=WORKERS,
        log_level="warning",
        timeout_graceful_shutdown=2,
    )


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
