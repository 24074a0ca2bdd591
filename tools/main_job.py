"""`./build.sh run`: the application on real files, delivered to DynamoDB Local and read back.

Without --input it makes sample data. A second run with no new file does nothing and says so.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kpi_common.log import printable
from kpi_common.uris import is_s3
from tools.jars import JarError
from tools.processes import StoppedBySignal, run_to_end, signals_raise
from tools.spark_submit import submit_command, submit_environment
from tools.toolchain import BUILD, ROOT, ToolchainError, get_all, is_complete, is_made_from, mark_made_from, say

if TYPE_CHECKING:
    from rich.console import Console

    from kpi_pipeline.export.reader import Export

SAMPLE_FOLDER = BUILD / "data"
DEFAULT_LAKE = BUILD / "lake"
REPORT = BUILD / "report.html"
DYNAMODB_FOLDER = BUILD / "dynamodb-local" / "data"
SMALL_INPUT_BYTES = 64 * 1024 * 1024


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="./build.sh run", description=__doc__)
    parser.add_argument("--input", metavar="DIR|s3://…", help="files as {streams,songs,users}/*.csv; else sample data")
    parser.add_argument("--lake", metavar="DIR|s3://…", default=str(DEFAULT_LAKE), help="default: .build/lake")
    parser.add_argument("--no-delivery", action="store_true", help="leave DynamoDB out")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="a setting (conf/settings)")
    for name in ("songs", "users"):
        parser.add_argument(
            f"--{name}", metavar="jdbc:…", action="append", default=[], help=f"{name} from a database too"
        )
    parser.add_argument("--env", default="local", help="environment of conf/settings; default: local")
    parser.add_argument("--docker", action="store_true", help="in a container of the image last built")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Do all of it; return the application's exit code, or that of the delivery where only this failed."""
    options = parse(arguments)
    try:
        with signals_raise():
            return run(options)
    except StoppedBySignal as stop:
        say("stopped; what was begun is finished by the next run")
        return stop.exit_code
    except Exception as error:
        exit_code = getattr(error, "exit_code", None)  # a user's mistake, of the application or the delivery
        if exit_code is None and not isinstance(error, ToolchainError | JarError):
            raise
        say(f"error: {error}")
        return exit_code or 1


def run(options: argparse.Namespace) -> int:
    """Run the application, deliver, show."""
    from tools.show import new_console, show_result

    console = new_console()
    source = whole_path(options.input or str(sample_data()))
    options.lake = whole_path(options.lake)
    if options.docker:
        from tools.docker_engine import ensure_engine

        ensure_engine()
    prepare(places(options, source))
    forget_deliveries_of_another_lake(options.lake)
    run_id = f"local-{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}"
    exit_code = run_application(options, source, run_id)
    result = read_result(options.lake, run_id)
    if result is None:
        return exit_code
    nothing_new = result["status"] == "nothing_to_do"
    if nothing_new:
        skipped = result["passed_over"]
        others = "every other file" if skipped else "every file"
        console.print(f"\n[bold]Nothing new:[/] {others} is in the lake already, no table was touched.")
        for file in skipped[:20]:
            line = f"  {file['name']}: {file['outcome']}: {file['message'] or file['reason'] or ''}"
            console.print(printable(line), markup=False)
    else:
        show_result(console, result)
    if exit_code == 0 and not options.no_delivery:
        exit_code = deliver_if_due(console, options.lake)
    show_where(console, source, options.lake, result, report_of(options.lake))
    return exit_code


# --- before the application ---


def sample_data() -> Path:
    """Return the folder with sample data, made anew when the way it is made has changed."""
    from tools import sample_data as maker

    made_by = Path(maker.__file__)
    folder = SAMPLE_FOLDER / "sample"
    if not is_made_from(SAMPLE_FOLDER, made_by):
        say("making sample data (once) …")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        maker.make_sample_data(folder)
        mark_made_from(SAMPLE_FOLDER, made_by)
    return folder


def whole_path(uri: str) -> str:
    """Return the one name of a local place, without links and `..`; it is the same in a container. S3 as it is."""
    from kpi_common.files import normalise

    return normalise(uri) if is_s3(uri) else str(Path(normalise(uri)).resolve())


def places(options: argparse.Namespace, source: str) -> list[str]:
    """Return all places that a run reads or writes."""
    return [source, options.lake, *options.songs, *options.users, *options.set]


def jar_purposes(uris: Sequence[str]) -> list[str]:
    """Return which jars Spark needs for these places."""
    return ["delta"] + ["s3"] * any(map(is_s3, uris)) + ["jdbc"] * any("jdbc:" in uri for uri in uris)


def prepare(uris: Sequence[str]) -> None:
    """Get jars that are needed; for S3, hand on whatever credentials boto3 finds, as Spark looks in fewer places."""
    if not is_complete(jar_purposes(uris)):
        get_all(jar_purposes(uris))
    if not any(map(is_s3, uris)):
        return
    import boto3

    from kpi_common.aws import credential_variables

    os.environ.update(credential_variables())
    if region := boto3.session.Session().region_name:
        os.environ["AWS_REGION"] = region


def dynamodb_folder(lake: str) -> Path:
    """Return where DynamoDB Local keeps what this lake delivered: each lake counts its exports by itself."""
    return DYNAMODB_FOLDER / hashlib.sha256(lake.encode()).hexdigest()[:12]


def forget_deliveries_of_another_lake(lake: str) -> None:
    """Empty DynamoDB Local for a lake that has no exports: it was made anew, and begins to count anew."""
    from kpi_common.files import join, storage_for

    folder = dynamodb_folder(lake)
    if folder.exists() and next(iter(storage_for(lake).list_files(join(lake, "exports"))), None) is None:
        shutil.rmtree(folder)


# --- the application ---


def run_application(options: argparse.Namespace, source: str, run_id: str) -> int:
    """Run `spark-submit`, here or in a container; its log is the progress that one sees."""
    arguments = ["run", "--input", source, "--lake", options.lake, "--env", options.env, "--run-id", run_id]
    for name in ("set", "songs", "users"):
        for value in getattr(options, name):
            arguments += [f"--{name}", value]
    arguments += ["--log-format", "text"]
    if options.docker:
        from tools.container import Job
        from tools.image import latest

        name = f"music-streaming-kpis-{run_id}"
        return Job(latest().name, arguments, source, options.lake, name, short_run=is_small(source)).run()
    purposes = jar_purposes(places(options, source))
    command = submit_command(arguments, purposes)
    return run_to_end(command, submit_environment(os.environ, purposes, short_run=is_small(source)))


def is_small(source: str) -> bool:
    """Tell whether the input is so small that a run is over before Java would have optimised its code."""
    if is_s3(source):
        return False
    size = 0
    for path in Path(source).rglob("*"):
        size += path.stat().st_size if path.is_file() else 0
        if size > SMALL_INPUT_BYTES:
            return False
    return True


def read_result(lake: str, run_id: str) -> dict[str, Any] | None:
    """Return the run's result, or None where the application could not write one (it then told why)."""
    from kpi_common.files import join, storage_for

    data = storage_for(lake).read(join(lake, "runs", run_id, "result.json"))
    return None if data is None else dict(json.loads(data))


# --- after the application ---


def deliver_if_due(console: Console, lake: str) -> int:
    """Deliver the newest export that has no receipt and show it; return the delivery's exit code."""
    from kpi_common.files import open_lake
    from kpi_pipeline.export.reader import latest_undelivered

    export = latest_undelivered(open_lake(lake))
    return 0 if export is None else deliver(console, lake, export)


def deliver(console: Console, lake: str, export: Export) -> int:
    """Start DynamoDB Local, deliver, read back, stop it."""
    from tools.dynamodb_local import CREDENTIALS, DynamoDBLocal
    from tools.show import show_kpis

    say("starting DynamoDB Local …")
    with DynamoDBLocal(dynamodb_folder(lake)) as server:
        # Where the lake is in S3 its credentials serve for both: DynamoDB Local takes any.
        os.environ.setdefault("AWS_REGION", CREDENTIALS["region_name"])
        os.environ.setdefault("AWS_ACCESS_KEY_ID", CREDENTIALS["aws_access_key_id"])
        os.environ.setdefault("AWS_SECRET_ACCESS_KEY", CREDENTIALS["aws_secret_access_key"])
        command = [sys.executable, "-m", "kpi_pipeline", "deliver", "--lake", lake, "--endpoint-url", server.url]
        exit_code = run_to_end(command, {**os.environ, "PYTHONPATH": str(ROOT / "dags")})
        if exit_code == 0:
            show_kpis(console, export, server.url)
    return exit_code


def report_of(lake: str) -> str:
    """Write the report and return its address; a run whose report fails is none that failed."""
    from kpi_common.errors import AppError
    from report.__main__ import write_report

    try:
        return write_report(lake, REPORT)
    except AppError as error:
        return f"none: {error}"


def show_where(console: Console, source: str, lake: str, result: dict[str, Any], report: str) -> None:
    """Tell where everything lies."""
    from kpi_common.files import join
    from tools.show import show_places

    places: dict[str, object] = {
        "input": source,
        "lake": lake,
        "result": join(lake, "runs", result["run_id"], "result.json"),
    }
    if result.get("export"):
        places["export"] = join(lake, result["export"]["path"])
    if dynamodb_folder(lake).exists():
        places["DynamoDB"] = dynamodb_folder(lake)
    places["report"] = report
    show_places(console, places)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
