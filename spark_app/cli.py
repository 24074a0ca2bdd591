"""Command line: `python -m spark_app …`, the same under `spark-submit`."""

from __future__ import annotations

import argparse
import json
import re
import secrets
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, date, datetime
from typing import Any

from pyspark import SparkContext
from pyspark.sql import SparkSession

from kpi_common.contracts import Dataset, load_contract
from kpi_common.files import normalise, storage_for
from kpi_common.log import log, printable, set_log_context, set_up_logging, warn
from spark_app import __version__, commands
from spark_app.config.dynamodb_layout import load_layout
from spark_app.config.settings import Settings, load_settings
from spark_app.errors import AppError, LockLostError, StorageError, UsageError, in_one_line
from spark_app.ingest.database import sources
from spark_app.ingest.delta_ledger import read_delta_ledger
from spark_app.ingest.file_ledger import Ledger, LedgerFolder
from spark_app.lake.lock import lake_lock
from spark_app.lake.tables import Lake, check_lake
from spark_app.log import Steps
from spark_app.run.context import Context
from spark_app.run.files import FileVersion, Status
from spark_app.run.result import RunResult, write_result
from spark_app.run.state import StateFile
from spark_app.spark.metrics import cost_so_far
from spark_app.spark.session import LazySession
from spark_app.spark.time_zones import check_time_zones

_RUN_ID = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._~:+=@-]{0,199}")
_STATUS = {2: "failed", 3: "nothing_usable", 4: "audit_failed"}

EXIT_CODES = """exit codes:
  0  done (also: nothing to do, or some files rejected and named)
  2  usage or settings
  3  nothing usable: every new file rejected, or songs/users missing or refused
  4  audit failed, nothing published
  1  anything else
What happened is in <lake>/runs/<run id>/result.json, but for wrong arguments and settings, and a lake that can't be
written."""


def main(argv: Sequence[str] | None = None, spark: SparkSession | None = None) -> int:
    """Run one command and return its exit code; `spark` is a session to use instead of an own one."""
    arguments = _parser().parse_args(argv)
    set_up_logging(arguments.log_format)
    signal.signal(signal.SIGTERM, _stop) if spark is None else None
    try:
        return _main(arguments, spark)
    except AppError as error:
        return _print_error(error)
    except KeyboardInterrupt:
        return _print_error(AppError("stopped"))


def _main(arguments: argparse.Namespace, spark: SparkSession | None) -> int:
    run_id = arguments.run_id or f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    if not _RUN_ID.fullmatch(run_id):
        raise UsageError(f"--run-id {run_id!r}: allowed are letters, digits and . _ ~ : + = @ -, at most 200")
    set_log_context(run_id=run_id, command=arguments.command)
    for option in ("songs", "users"):
        if url := getattr(arguments, option, None):
            arguments.set.append(f"{option}_source={url}")
    settings = load_settings(arguments.env, arguments.set)
    sources(settings)
    for dataset in Dataset:
        load_contract(dataset)
    load_layout()
    check_time_zones([settings.kpi_time_zone, settings.source_time_zone])
    lake = normalise(arguments.lake)
    check_lake(lake, settings)
    if arguments.command == "files" and arguments.action in {"list", "show"}:
        return _show_files(arguments, settings, lake, spark)
    source = getattr(arguments, "input", None)
    result = RunResult(run_id, arguments.command, lake, normalise(source) if source else None, datetime.now(UTC))
    return _under_lock(arguments, settings, lake, result, spark)


def _under_lock(
    arguments: argparse.Namespace, settings: Settings, lake: str, result: RunResult, spark: SparkSession | None
) -> int:
    steps = Steps()
    session = LazySession(settings, steps, spark)
    guarded = Lake(lake, _never_held)
    failure: AppError | None = None
    with ExitStack() as held:
        try:
            lock = lake_lock(lake, result.run_id, settings.lock_lease_seconds, settings.lock_wait_seconds)
            guarded = Lake(lake, held.enter_context(lock).ensure_held)
            context = Context(session, settings, guarded, result.run_id, result, steps)
            _resolve_command(arguments)(context)
            if session.started is not None:
                result.cost = cost_so_far(session.started, settings)
        except AppError as error:
            failure = error
        except KeyboardInterrupt:
            failure = AppError("stopped; nothing half done counts: run again to go on", code="stopped")
        except Exception as error:  # noqa: BLE001  (the last resort: one line for the user, with the trace in the log)
            traceback.print_exc()
            failure = _unexpected(error)
        finally:
            session.stop()
        return _finalize(guarded, result, steps, failure)


def _never_held() -> None:
    raise LockLostError("this run never held the lake's lock")


def _finalize(lake: Lake, result: RunResult, steps: Steps, failure: AppError | None) -> int:
    if failure is not None:
        result.exit_code = failure.exit_code
        result.status = _STATUS.get(failure.exit_code, "failed")
        result.error = {"code": failure.code, "message": str(failure)}
    content = result.as_json(datetime.now(UTC), steps.as_json())
    try:
        uri: str | None = write_result(lake, content)
    except (StorageError, LockLostError) as error:
        uri = None
        warn("the result can't be written", detail=str(error))
        print(json.dumps(content, default=str), file=sys.stderr)
    if failure is not None:
        _print_error(failure)
    log("end", status=result.status, exit_code=result.exit_code, seconds=content["seconds"], result=uri)
    return result.exit_code


def _resolve_command(arguments: argparse.Namespace) -> Callable[[Context], None]:
    command = arguments.command
    if command == "run":
        return lambda context: commands.run(context, context.result.input, arguments.manifest)
    if command == "rebuild":
        return lambda context: commands.rebuild(context, arguments.first, arguments.last)
    if command == "files" and arguments.action == "withdraw":
        return lambda context: commands.withdraw(context, arguments.names)
    if command == "files":
        return lambda context: commands.retry(context, arguments.names)
    if command == "export":
        return lambda context: commands.export(context, full=arguments.full)
    if command == "restore":
        return lambda context: commands.restore(context, arguments.run)
    if command == "forget-user":
        ids, folders = _user_ids(arguments), [normalise(folder) for folder in arguments.files]
        return lambda context: commands.forget_users(
            context, ids, folders, rewrite=arguments.rewrite, dry_run=arguments.dry_run
        )
    return commands.compact


def _user_ids(arguments: argparse.Namespace) -> list[int]:
    """Return the ids that are named, and those of the file, of which each line holds one."""
    if arguments.ids is None:
        return list(arguments.user_ids)
    uri = normalise(arguments.ids)
    data = storage_for(uri).read(uri)
    if data is None:
        raise UsageError(f"--ids {uri}: there is no such file")
    try:
        return [*arguments.user_ids, *(int(line) for line in data.split())]
    except ValueError:
        raise UsageError(f"--ids {uri}: expected one whole number on each line") from None


def _show_files(arguments: argparse.Namespace, settings: Settings, lake: str, spark: SparkSession | None) -> int:
    if arguments.action == "list":
        ledger = _read_ledger(settings, lake, spark)
        newest = {version.name: version for version in ledger.all}  # the last one of each name
        shown = [newest[name] for name in sorted(newest)]
        shown = [version for version in shown if arguments.status in {None, str(version.status)}]
        _print_table(["name", "status", "rows", "valid", "duplicates", "quarantined", "waiting", "reason"], shown)
        return 0
    ledger = _read_ledger(settings, lake, spark, arguments.names)
    for name in arguments.names:
        versions = ledger.of(name)
        if not versions:
            raise UsageError(f"files show {name}: the ledger has no file of this name")
        for version in versions:
            fields = {key: value for key, value in vars(version).items() if value is not None}
            print(json.dumps(fields, default=str, ensure_ascii=False, indent=1))
    return 0


def _read_ledger(
    settings: Settings, lake: str, spark: SparkSession | None, names: Sequence[str] | None = None
) -> Ledger:
    """Read the ledger without lock: of some files, or of all; Spark is only started for an earlier release's lake."""
    state = StateFile(Lake(lake), "")
    if not state.exists:
        session = LazySession(settings, Steps(), spark)
        try:
            return Ledger(read_delta_ledger(Lake(lake), session))
        finally:
            session.stop()
    folder = LedgerFolder(state)
    ledger = folder.read_all() if names is None else folder.read(names)
    for version in state.value.open:
        ledger.settle(version)
    return ledger


def _print_table(columns: list[str], versions: list[FileVersion]) -> None:
    rows = [columns] + [[_cell(getattr(v, c)) for c in columns] for v in versions]
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _cell(value: object) -> str:
    return "" if value is None else printable(str(value))


def _unexpected(error: Exception) -> AppError:
    """Say in one line what Spark, or the code, failed with; the stack trace is in the log."""
    return AppError(f"{type(error).__name__}: {in_one_line(error)}", code="unexpected")


def _print_error(error: AppError) -> int:
    print(printable(f"error: {error}", keep="\n"), file=sys.stderr)
    return error.exit_code


def _stop(*_: Any) -> None:
    """End what is going on. Spark's jobs are cancelled, as threads that wait for them would hold up the end."""
    context = SparkContext._active_spark_context  # noqa: SLF001 (the session may not be known to this thread)
    if context is not None:
        threading.Thread(target=_cancel_jobs, args=(context,), daemon=True).start()
    raise KeyboardInterrupt


def _cancel_jobs(context: SparkContext) -> None:
    """Cancel what runs, and what threads go on to start, until Spark has stopped."""
    with suppress(Exception):
        while True:
            context.cancelAllJobs()
            time.sleep(0.2)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="spark_app",
        description="Turn CSV files of listens into daily and hourly KPIs in a Delta lake, exported for DynamoDB.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    common = _common()
    sub = parser.add_subparsers(dest="command", required=True, metavar="command")

    run = sub.add_parser("run", parents=[common], help="all steps in one job: take in what is new, compute, export")
    source = run.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", help="folder or s3:// prefix with streams/, songs/ and users/ below it")
    source.add_argument(
        "--manifest", help="run manifest: a prepared list of files (conf/schemas/run_manifest.schema.json)"
    )

    for option in ("songs", "users"):
        run.add_argument(
            f"--{option}", metavar="jdbc:…", help=f"{option} from a database too (the setting {option}_source)"
        )

    rebuild = sub.add_parser("rebuild", parents=[common], help="compute KPIs again from what is staged")
    rebuild.add_argument(
        "--from", dest="first", type=date.fromisoformat, metavar="DATE", help="first date (default: the first staged)"
    )
    rebuild.add_argument(
        "--to", dest="last", type=date.fromisoformat, metavar="DATE", help="last date (default: the last staged)"
    )

    files = sub.add_parser("files", help="the ledger of files").add_subparsers(
        dest="action", required=True, metavar="action"
    )
    listing = files.add_parser("list", parents=[common], help="all files and their state")
    listing.add_argument("--status", choices=[str(status) for status in Status], help="only files in this state")
    for action, text in (
        ("show", "all versions of files, with counts and reasons"),
        ("retry", "let the next run take rejected or withdrawn files again"),
        ("withdraw", "take the rows of files back and recompute what they touched"),
    ):
        files.add_parser(action, parents=[common], help=text).add_argument("names", nargs="+", metavar="NAME")

    export = sub.add_parser("export", parents=[common], help="export what was not delivered yet")
    export.add_argument("--full", action="store_true", help="export all days")
    restore = sub.add_parser("restore", parents=[common], help="KPI tables as they were before a run")
    restore.add_argument("--run", required=True, metavar="RUN_ID", help="the run whose KPIs are taken back")
    sub.add_parser("compact", parents=[common], help="merge small files, delete what is past its retention")
    forget = sub.add_parser("forget-user", parents=[common], help="remove users everywhere, and keep them out")
    forget.add_argument(
        "user_ids", nargs="*", type=int, metavar="ID", help="user_id; without any: all whom it forgot before"
    )
    forget.add_argument("--ids", metavar="FILE", help="file with one id on each line: so no list of processes shows it")
    forget.add_argument(
        "--files", action="append", default=[], metavar="URI", help="folder of files to search: raw, archive, rejected"
    )
    forget.add_argument("--rewrite", action="store_true", help="take their rows out of these files, too")
    forget.add_argument("--dry-run", action="store_true", help="only list what names them")
    return parser


def _common() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--lake", required=True, help="folder or s3:// prefix of the lake (made if it is not there)")
    common.add_argument("--env", default="local", help="environment: which file of conf/settings (default: local)")
    common.add_argument("--run-id", help="name of this run (default: made from the time)")
    common.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="override a setting; repeatable"
    )
    common.add_argument(
        "--log-format", choices=["auto", "json", "text"], default="auto", help="default: text on a terminal"
    )
    return common
