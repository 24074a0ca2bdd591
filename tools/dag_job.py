"""`./build.sh dag`: the DAG by a real Airflow against an emulated AWS, from files in S3 to KPIs in DynamoDB."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tools.airflow_runs import DAG_ID, Airflow, DagRun
from tools.airflow_tools import AIRFLOWS, NEWEST, RUN_WITH, get_airflow, installed
from tools.emulated_aws import ROLE, EmulatedAws
from tools.emulated_jobs import has_image
from tools.main_job import sample_data
from tools.processes import StoppedBySignal, run_to_end, signals_raise, started
from tools.toolchain import BUILD, ROOT, ToolchainError, say

if TYPE_CHECKING:
    from rich.console import Console

FOLDER = BUILD / "dag"
BUCKET = "music-streaming"
IMAGE = "music-streaming-kpis:local"
REASON_SHOWN = 160
UI_PORT = 8080
QUICK_SETTINGS = {"SCHEDULE": "manual", "WAIT_SECONDS": "10", "POLL_SECONDS": "1", "RETRIES": "1", "RETRY_SECONDS": "1"}
QUICK_SETTINGS["MAINTENANCE_SCHEDULE"] = "manual"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="./build.sh dag", description=__doc__)
    parser.add_argument("--input", metavar="DIR", help="files as {streams,songs,users}/*.csv; else sample data")
    parser.add_argument("--airflow", choices=sorted(RUN_WITH), default=NEWEST, help=f"default: {NEWEST}; MWAA's: 3.0")
    parser.add_argument("--deferrable", action="store_true", help="let waiting tasks leave their worker")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--image", metavar="NAME", default=IMAGE, help=f"run the Spark job in it, if here; {IMAGE}")
    where.add_argument("--no-image", dest="image", action="store_const", const=None, help="run the Spark job directly")
    parser.add_argument("--ui", action="store_true", help="start Airflow with its web UI and leave it up")
    parser.add_argument("--test", action="store_true", help="run the tests of the DAG instead")
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--quick", action="store_true", help="with --test: only the most telling ones")
    extent.add_argument("--all", action="store_true", help="with --test: the long ones too, on all of MWAA's images")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Do all of it; the exit code tells whether the run succeeded."""
    options = parse(arguments)
    try:
        with signals_raise():
            return test(options) if options.test else run(options)
    except StoppedBySignal as stop:
        return stop.exit_code
    except ToolchainError as error:
        say(f"error: {error}")
        return 1


def test(options: argparse.Namespace) -> int:
    """Run the DAG in all its cases and, at the same time, hold every DAG against the policy on both Airflows.

    On Airflows between these two, for `--all`, only what depends on Airflow's and the provider's own code is tried.
    """
    env = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "AWS_", "MUSIC_KPIS_", "PYTHON"))}
    chosen = "quick" if options.quick else "not sample" if options.all else "not long"
    runs = [sys.executable, "-m", "pytest", "tests/e2e", "-m", chosen, "--durations=0", "-v"]
    folder = ROOT / "tests" / "dags"
    get_airflow(NEWEST)  # the others are got while the first run goes on
    failed = []
    with started([*runs, "-n", "2", "--dist", "loadfile"], os.environ) as all_runs:
        for name in AIRFLOWS if options.all else RUN_WITH:
            version = get_airflow(name)
            command = [str(version.python), "-m", "pytest", "-c", str(folder / "pytest.ini"), str(folder)]
            command += [] if name in RUN_WITH else ["-k", "parses or operator or channels"]
            with tempfile.TemporaryFile() as output:  # shown as a whole, between the lines of the runs
                code = run_to_end(command, env | {"TZ": "UTC"}, output)
                say(f"--- policy of DAGs, Airflow {installed(version, 'apache-airflow')}")
                output.seek(0)
                shutil.copyfileobj(output, sys.stderr.buffer)
            failed += [f"policy on {name}"] if code != 0 else []
        failed += ["runs"] if all_runs.wait() != 0 else []
    if failed:
        say(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


def run(options: argparse.Namespace) -> int:
    """Start everything, run the DAG, show what it did."""
    from tools.show import new_console

    console = new_console()
    version = get_airflow(options.airflow)
    provider = installed(version, "apache-airflow-providers-amazon")
    say(f"Airflow {installed(version, 'apache-airflow')}, amazon provider {provider}")
    shutil.rmtree(FOLDER, ignore_errors=True)
    say("starting the emulated AWS …")
    image = options.image if options.image and has_image(options.image) else None
    say(f"Spark jobs run in the image {image}" if image else "Spark jobs run directly on this machine")
    with EmulatedAws(FOLDER / "aws", image) as aws:
        fill_bucket(aws, Path(options.input) if options.input else sample_data())
        airflow = new_airflow(aws, options)
        if options.ui:
            return serve(airflow, aws)
        before = keys_by_folder(aws)
        say("running the DAG …")
        result = airflow.run_dag()
        show(console, aws, result, before)
        if result.state != "success":
            say(result.log[-6000:])
    return 0 if result.state == "success" else 1


def fill_bucket(aws: EmulatedAws, source: Path, bucket: str = BUCKET, prefix: str = "raw") -> None:
    """Make the bucket with the files of a folder."""
    s3 = aws.client("s3")
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": s3.meta.region_name})
    for path in sorted(source.rglob("*")):
        if path.is_file():
            s3.upload_file(str(path), bucket, f"{prefix}/{path.relative_to(source).as_posix()}")


def new_airflow(aws: EmulatedAws, options: argparse.Namespace) -> Airflow:
    """Return an Airflow that knows the emulated AWS."""
    variables = {
        "bucket_name": BUCKET,
        "emr_application_id": aws.create_application(),
        "execution_role_arn": ROLE,
        "music_streaming_pipeline": json.dumps({"job_environment": "local"}),
    }
    settings = {**QUICK_SETTINGS, "DEFERRABLE": str(options.deferrable).lower()}
    return Airflow(get_airflow(options.airflow), FOLDER / "airflow", aws.environment, variables, settings=settings)


def serve(airflow: Airflow, aws: EmulatedAws) -> int:
    """Run `airflow standalone` until Ctrl-C."""
    say(f"Airflow comes up at http://localhost:{UI_PORT} (no login): open {DAG_ID} and trigger it. Ctrl-C ends it.")
    say(f"S3 and EMR Serverless are at {aws.url}, DynamoDB at {aws.dynamodb.url}; logs are in {FOLDER}")
    with airflow.scheduler(UI_PORT) as process, contextlib.suppress(KeyboardInterrupt):
        return process.wait()
    return 128 + signal.SIGINT


# --- what is shown ---


def keys_by_folder(aws: EmulatedAws) -> dict[str, int]:
    """Return all keys of the bucket with their sizes."""
    pages = aws.client("s3").get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    return {entry["Key"]: entry["Size"] for page in pages for entry in page.get("Contents", [])}


def show(console: Console, aws: EmulatedAws, result: DagRun, before: dict[str, int]) -> None:
    """Print tasks, bucket, ledger and KPIs."""
    from tools.show import print_table, show_kpis

    rows = [(task.label, task.state or "", task.try_number, round(task.seconds or 0, 1)) for task in result.tasks]
    print_table(console, f"Tasks of {result.run_id}: {result.state}", ("task", "state", "try", "seconds"), rows)
    print_table(console, "Bucket before", ("key", "bytes"), _bucket_rows(before))
    print_table(console, "Bucket after", ("key", "bytes"), _bucket_rows(keys_by_folder(aws)))
    with _environment(aws):
        from kpi_common.files import open_lake
        from kpi_pipeline.export.reader import read_export
        from kpi_pipeline.files.claims import ClaimLedger
        from kpi_pipeline.settings import load_delivery_settings

        entries = ClaimLedger(load_delivery_settings()).with_status()
        columns = ("file", "status", "rows", "reason")
        ledger = [(e.filename, e.status, "" if e.rows is None else e.rows, e.reason[:REASON_SHOWN]) for e in entries]
        print_table(console, "ProcessedStreams", columns, ledger)
        lake = open_lake(f"s3://{BUCKET}/lake")
        exports = [path.split("/")[1] for path in lake.files("exports", frozenset({"delivered.json"}))]
        if exports:
            show_kpis(console, read_export(lake, exports[-1]), aws.dynamodb.url)


def _bucket_rows(keys: dict[str, int]) -> list[tuple[str, int]]:
    """Return files in the order of their keys; of the lake, only how many there are by table."""
    rows: list[tuple[str, int]] = []
    folders: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for key, size in keys.items():
        if key.startswith("lake/"):
            folder = "/".join(key.split("/")[: 3 if key.startswith(("lake/staged", "lake/kpis")) else 2])
            folders[folder] += 1
            sizes[folder] += size
        else:
            rows.append((key, size))
    return rows + [(f"{folder}/ ({count} files)", sizes[folder]) for folder, count in sorted(folders.items())]


@contextlib.contextmanager
def _environment(aws: EmulatedAws) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(aws.environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
