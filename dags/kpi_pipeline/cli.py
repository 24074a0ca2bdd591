"""Command line: `python -m kpi_pipeline deliver | read | files | redshift`.

Exit codes: 0 done (also: superseded, or nothing to deliver), 2 usage or settings, 1 anything else.
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NoReturn

from kpi_common.aws import plain_aws_errors
from kpi_common.errors import AppError, UsageError
from kpi_common.files import open_lake
from kpi_common.log import printable, printable_json, set_up_logging, warn
from kpi_common.s3_files import S3Storage
from kpi_pipeline.aws import dynamodb_client
from kpi_pipeline.dynamodb.reading import Day, read_day
from kpi_pipeline.errors import VerificationError
from kpi_pipeline.export.delivery import LATEST, DeliveryResult, deliver
from kpi_pipeline.files.claims import ClaimLedger
from kpi_pipeline.files.reingest import write_reingest_manifest
from kpi_pipeline.files.release import rejected_for, release
from kpi_pipeline.redshift.load import load
from kpi_pipeline.redshift.tables import definitions
from kpi_pipeline.redshift.validate import validate
from kpi_pipeline.settings import RedshiftSettings, load_delivery_settings, load_redshift_settings

WIDEST_CELL = 40
EXIT_FAILED = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    set_up_logging()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        options.command(options)
    except AppError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; run it again to go on", file=sys.stderr)
        return EXIT_FAILED
    return 0


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kpi_pipeline", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--table-prefix", metavar="P", help="put before the name of every table")
    common.add_argument("--endpoint-url", metavar="URL", help="of DynamoDB; default: the AWS environment's")
    common.add_argument("--json", action="store_true", help="print the result as one JSON object")

    writing = commands.add_parser("deliver", parents=[common], help="write an export to DynamoDB and verify it")
    writing.add_argument("--lake", required=True, metavar="URI", help="folder or s3://bucket/prefix")
    writing.add_argument(
        "--run-id", default=LATEST, metavar="ID", help="default: latest, the newest export not yet delivered"
    )
    writing.add_argument("--max-write-rate", type=float, metavar="N", help="write units a second (items of up to 1 KB)")
    writing.add_argument("--workers", type=int, metavar="N", help="threads that send batches")
    writing.add_argument("--max-retries", type=int, metavar="N", help="waits in a row before giving up")
    writing.add_argument(
        "--lease-seconds", type=float, metavar="N", help="a writer silent for this long counts as dead"
    )
    writing.add_argument("--wait-seconds", type=float, metavar="N", help="how long to wait for another writer")
    writing.add_argument("--adopt-lake", action="store_true", help="take tables over that another lake has written to")
    writing.set_defaults(command=_deliver)

    reading = commands.add_parser("read", parents=[common], help="print a day's items")
    reading.add_argument("--date", required=True, type=_date, metavar="YYYY-MM-DD")
    reading.add_argument("--table", action="append", default=[], metavar="NAME", help="default: all KPI tables")
    reading.add_argument("--limit", type=int, metavar="N", help="print at most so many items a table")
    reading.set_defaults(command=_read)
    _add_files(commands, common)
    _add_redshift(commands)
    return parser


def _add_files(commands: Any, common: argparse.ArgumentParser) -> None:
    files = commands.add_parser("files", help="the ledger of submitted files, ProcessedStreams")
    actions = files.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser("list", parents=[common], help="print all entries, or those in one state")
    listing.add_argument("--status", choices=["processing", "success", "failed", "rejected"])
    listing.set_defaults(command=_list_files)
    releasing = actions.add_parser(
        "release", parents=[common], help="bring rejected files back to the source, so that the next run takes them"
    )
    releasing.add_argument("names", nargs="*", metavar="NAME", help="such as streams/streams1.csv")
    releasing.add_argument("--reason", metavar="REASON", help="all files rejected for it, such as run_died")
    releasing.add_argument("--source", required=True, metavar="URI", help="s3://bucket/raw")
    releasing.add_argument("--rejected", required=True, metavar="URI", help="s3://bucket/rejected")
    releasing.set_defaults(command=_release_files)
    again = actions.add_parser("reingest", help="write a run manifest that fills a lost lake again from the archive")
    again.add_argument("--source", required=True, metavar="URI", help="s3://bucket/raw, where songs and users are")
    again.add_argument("--archive", required=True, metavar="URI", help="s3://bucket/archive")
    again.add_argument("--manifest", required=True, metavar="URI", help="where to write it: s3://… or a file")
    again.set_defaults(command=_reingest_files)


def _add_redshift(commands: Any) -> None:
    redshift = commands.add_parser("redshift", help="the KPIs in Redshift")
    actions = redshift.add_subparsers(required=True, metavar="ACTION")
    schema = argparse.ArgumentParser(add_help=False)
    schema.add_argument("--schema", default="music_streaming", metavar="NAME", help="default: music_streaming")
    database = argparse.ArgumentParser(add_help=False, parents=[schema])
    database.add_argument("--lake", required=True, metavar="URI", help="s3://bucket/prefix")
    for name, field in RedshiftSettings.model_fields.items():
        option = f"--{name.removeprefix('redshift_').replace('_', '-')}"
        if option not in ("--schema", "--copy-role"):
            database.add_argument(option, required=option == "--database", metavar="X", help=field.description)
    loading = actions.add_parser("load", parents=[database], help="load what the lake's exports have and Redshift not")
    loading.add_argument("--copy-role", metavar="ARN", help="role by which COPY reads S3, or: default")
    loading.set_defaults(command=_load_redshift)
    validating = actions.add_parser(
        "validate", parents=[database], help="compare rows, sums and keys with the exports; exit code 1 if they differ"
    )
    validating.set_defaults(command=_validate_redshift, copy_role="default")
    showing = actions.add_parser("tables", parents=[schema], help="print the statements that make the tables")
    showing.set_defaults(command=lambda options: print(";\n\n".join(definitions(options.schema)) + ";"))


def _date(text: str) -> str:
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
        raise argparse.ArgumentTypeError(f"'{text}' is no date like 2024-06-25")
    return text


def _deliver(options: argparse.Namespace) -> None:
    settings = load_delivery_settings(
        prefix=options.table_prefix,
        max_write_rate=options.max_write_rate,
        workers=options.workers,
        max_retries=options.max_retries,
        lease_seconds=options.lease_seconds,
        wait_seconds=options.wait_seconds,
    )
    lake = open_lake(options.lake)
    outcome = deliver(lake, options.run_id, settings, options.endpoint_url, adopt_lake=options.adopt_lake)
    undeliverable = len(outcome.receipt.get("undeliverable", []))
    if undeliverable:
        warn(f"items that could not be delivered: {undeliverable}; the receipt lists them", run_id=outcome.run_id)
    print(printable_json(asdict(outcome)) if options.json else _summary(outcome))


def _summary(outcome: DeliveryResult) -> str:
    lines = [outcome.message]
    if outcome.receipt:
        rows = [{"table": name, **counts} for name, counts in outcome.receipt["tables"].items()]
        lines += _table(rows)
        lines.append(f"{outcome.receipt['dates']} dates in {outcome.receipt['seconds']:.1f} s")
    for entry in outcome.receipt.get("undeliverable", []):
        key = ", ".join(str(value) for part in entry["key"].values() for value in part.values())
        reason = f"{entry['reason']}, {entry['bytes']} bytes"
        lines.append(printable(f"not delivered ({reason}): {entry['table']} {key[:200]}"))
    return "\n".join(lines)


def _read(options: argparse.Namespace) -> None:
    settings = load_delivery_settings(prefix=options.table_prefix)
    with plain_aws_errors("DynamoDB"):
        client = dynamodb_client(options.endpoint_url)
        day = read_day(client, settings, options.date, options.table)
    if options.limit is not None:
        if options.limit < 0:
            raise UsageError("--limit must not be negative")
        day = Day(day.date, day.status, day.consistent, {name: i[: options.limit] for name, i in day.tables.items()})
    if options.json:
        print(printable_json(asdict(day)))
        return
    if day.status is None:
        print(f"{day.date}: never delivered")
    else:
        state = "" if day.consistent else "  (being written: some items may be of another version)"
        print(f"{day.date}: " + ", ".join(f"{name} {value}" for name, value in day.status.items()) + state)
    for name, items in day.tables.items():
        print(f"\n{name}: {len(items)} items")
        print("\n".join(_table(items)))


def _list_files(options: argparse.Namespace) -> None:
    statuses = [options.status] if options.status else []
    ledger = ClaimLedger(load_delivery_settings(prefix=options.table_prefix), dynamodb_client(options.endpoint_url))
    rows = [asdict(entry) for entry in ledger.with_status(*statuses)]
    print(printable_json(rows) if options.json else "\n".join(_table(rows)) if rows else "none")


def _release_files(options: argparse.Namespace) -> None:
    ledger = ClaimLedger(load_delivery_settings(prefix=options.table_prefix), dynamodb_client(options.endpoint_url))
    if bool(options.names) == bool(options.reason):
        raise UsageError("files release: give names, or --reason")
    for name in options.names or rejected_for(ledger, options.reason):
        print(f"{printable(name)}: {release(S3Storage(), ledger, options.source, options.rejected, name)}")


def _reingest_files(options: argparse.Namespace) -> None:
    files = write_reingest_manifest(S3Storage(), options.source, options.archive, options.manifest)
    print(f"{options.manifest}: {files} files; next: run --manifest {options.manifest} --lake … (an empty one)")


def _redshift_settings(options: argparse.Namespace) -> RedshiftSettings:
    names = (name.removeprefix("redshift_") for name in RedshiftSettings.model_fields)
    return load_redshift_settings({name: getattr(options, name) for name in names})


def _load_redshift(options: argparse.Namespace) -> None:
    loaded = load(open_lake(options.lake), _redshift_settings(options))
    print("\n".join(f"export {number} is loaded" for number in loaded) or "nothing to load: Redshift has all days")


def _validate_redshift(options: argparse.Namespace) -> None:
    found = validate(open_lake(options.lake), _redshift_settings(options))
    if found.problems:
        print("\n".join(map(printable, found.problems)))
        raise VerificationError(f"Redshift differs from the exports: {len(found.problems)} differences")
    rest = f"; {found.without_export} days that no export has any more were not compared" * bool(found.without_export)
    print(f"Redshift is as the exports: {found.days} days, {found.rows} rows, their sums and keys{rest}")


def _table(rows: list[dict[str, Any]]) -> list[str]:
    """Return rows as aligned columns; numbers to the right."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [columns, *([_cell(row.get(name)) for name in columns] for row in rows)]
    widths = [max(len(line[place]) for line in cells) for place in range(len(columns))]
    numeric = [all(isinstance(row.get(name), (int, float)) for row in rows) for name in columns]
    return [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in cells
        if line
    ]


def _cell(value: Any) -> str:
    text = "" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    text = printable(text)
    return text if len(text) <= WIDEST_CELL else f"{text[: WIDEST_CELL - 1]}…"
