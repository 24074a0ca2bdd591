"""Delivery of an export: `prepare`, `write_part` for each part, `verify`, `finish`; `deliver` does all of it.

Each step can be stopped at any point and done again, in another process too (an Airflow task), with the same end: what
a step does depends only on the export and on what is in DynamoDB. Reports are plain data, to be handed between tasks.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from kpi_common.aws import plain_aws_errors
from kpi_common.errors import AppError
from kpi_common.files import Folder
from kpi_common.layout import TableLayout
from kpi_common.log import log, set_log_context, warn
from kpi_pipeline.aws import batch_client, dynamodb_client
from kpi_pipeline.dynamodb.batch_writer import BatchWriter, WriteRequest, delete_request, put_request
from kpi_pipeline.dynamodb.difference import Difference, difference
from kpi_pipeline.dynamodb.items import MAX_ITEM_BYTES, Item, Key, item_size, key_attributes, key_of, key_problem
from kpi_pipeline.dynamodb.lease import Lease, utc_now
from kpi_pipeline.dynamodb.status import StatusTable
from kpi_pipeline.dynamodb.tables import ensure_table, status_layout
from kpi_pipeline.errors import SupersededError, VerificationError
from kpi_pipeline.export.reader import (
    RECEIPT,
    Export,
    Part,
    check_files,
    export_folder,
    latest_undelivered,
    read_export,
    read_part,
)
from kpi_pipeline.settings import DeliverySettings

LATEST = "latest"
PROBE_ATTEMPTS = 3
REFUSED = "refused"  # by DynamoDB itself
Wanted = dict[Key, Item]


@dataclass(frozen=True)
class PartReport:
    """What was done for a part; counts by table."""

    part: int
    tables: dict[str, dict[str, int]]
    undeliverable: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain data; `PartReport(**data)` makes it again."""
        return asdict(self)


@dataclass(frozen=True)
class DeliveryResult:
    """How a delivery ended: `delivered`, `superseded` or `nothing_to_deliver`. All three are a success."""

    outcome: str
    message: str
    run_id: str | None = None
    export_seq: int | None = None
    receipt: dict[str, Any] = field(default_factory=dict)


class Delivery:
    """The steps of delivering one export."""

    def __init__(
        self,
        lake: Folder,
        export: Export,
        settings: DeliverySettings,
        endpoint_url: str | None = None,
        holder: str | None = None,
    ) -> None:
        """Name the export and the writer.

        Args:
            lake: where the export lies.
            export: from `read_export` or `latest_undelivered`.
            settings: see `load_delivery_settings`.
            endpoint_url: of DynamoDB, when it isn't the one of the environment.
            holder: who writes; steps in several processes that belong together name the same one.
        """
        self._lake, self._export, self._settings = lake, export, settings
        self._endpoint_url = endpoint_url
        connections = settings.writer.workers + 4
        self._client = dynamodb_client(endpoint_url, connections)
        self.lease = Lease(self._client, settings, export, holder)
        self._writer = BatchWriter(
            batch_client(endpoint_url, connections), settings.writer, settings.tables.prefix, self.lease.check
        )
        self._status = StatusTable(self._client, settings, export, self.lease)
        self._refused: dict[tuple[str, Key], str] = {}
        self.has_written = False  # in this process

    def prepare(self, *, adopt_lake: bool = False) -> None:
        """Check the whole export, make or check the tables, and take the lease.

        Raises:
            ExportError, TableError: the export is incomplete, or a table has another layout; nothing was written.
            SupersededError, OtherLakeError, LeaseError: see `Lease.acquire`.
        """
        export = self._export
        check_files(self._lake, export)
        log("export read and complete", export_seq=export.export_seq, dates=len(export.dates), items=export.items)
        with plain_aws_errors("DynamoDB"):
            self._probe()
            for layout in (status_layout(self._settings), *export.tables):
                ensure_table(self._client, layout, self._settings.tables)
            self.lease.acquire(adopt_lake=adopt_lake)

    def write_part(self, number: int) -> PartReport:
        """Make DynamoDB's items of a part's dates equal to the export's: put what differs, delete what is gone."""
        part = self._export.part(number)
        items = read_part(self._lake, self._export, part)
        wanted, undeliverable = self._deliverable(items)
        with plain_aws_errors("DynamoDB"):
            differences = self._differences(wanted, part.dates)
            changed = sorted({date for (_, date), found in differences.items() if found})
            if changed:
                self._status.mark_writing(changed)
                self.has_written = True
            written = self._writer.write(_requests(differences, self._layouts()))
        for request, message in self._writer.refused:
            self._refused[request.layout.name, request.key] = f"{REFUSED}: {message}"
            undeliverable.append(self._undeliverable(request.item, request.layout, f"{REFUSED}: {message}"))
        report = PartReport(number, _counts(differences, written), undeliverable)
        total = sum((Counter(counts) for counts in report.tables.values()), Counter())
        log(
            f"part {number + 1} of {len(self._export.parts)} written",
            dates=len(part.dates),
            put=total["put"],
            deleted=total["deleted"],
            unchanged=total["unchanged"],
            retries=total["retries"],
        )
        return report

    def verify(self, reports: Iterable[PartReport]) -> dict[int, list[str]]:
        """Read all dates back and return, by part, what differs from the export, a sentence each; empty when nothing.

        Args:
            reports: of `write_part`; what they tell as refused by DynamoDB is not expected there.
        """
        layouts = self._layouts()
        for entry in (entry for report in reports for entry in report.undeliverable):
            if entry["reason"].startswith(REFUSED):
                self._refused[entry["table"], key_of(entry["key"], layouts[entry["table"]])] = entry["reason"]
        differing = {part.number: problems for part in self._export.parts if (problems := self._verify_part(part))}
        log("read back", dates=len(self._export.dates), parts_that_differ=len(differing))
        return differing

    def _verify_part(self, part: Part) -> list[str]:
        wanted, _ = self._deliverable(read_part(self._lake, self._export, part))
        with plain_aws_errors("DynamoDB"):
            differences = self._differences(wanted, part.dates)
        return [
            f"{table}, {date}: {len(found.puts)} items missing or different, {len(found.deletes)} too many"
            for (table, date), found in differences.items()
            if found
        ]

    def finish(self, reports: Iterable[PartReport], seconds: float) -> dict[str, Any]:
        """Tell readers that the days are complete, then write the receipt and give the lease back.

        Args:
            reports: of `write_part`, all of them, repeated ones too, in order.
            seconds: how long the delivery took.

        Returns:
            The receipt.
        """
        tables, undeliverable = _combined(reports, [layout.name for layout in self._export.tables])
        with plain_aws_errors("DynamoDB"):
            self.lease.check()
            self._status.mark_complete(_by_date(undeliverable, self._layouts()))
        receipt = {
            "schema_version": 1,
            "run_id": self._export.run_id,
            "export_seq": self._export.export_seq,
            "delivered_at": utc_now(),
            "seconds": round(seconds, 3),
            "dates": len(self._export.dates),
            "tables": tables,
            "undeliverable": undeliverable,
        }
        text = json.dumps(receipt, indent=1, ensure_ascii=False) + "\n"
        self._lake.write(f"{export_folder(self._export.run_id)}/{RECEIPT}", text.encode())
        self.release()
        return receipt

    def release(self) -> None:
        """Give the lease back, so that nobody has to wait for it to run out."""
        with plain_aws_errors("DynamoDB"):
            self.lease.release()

    def _probe(self) -> None:
        """Fail soon when DynamoDB can't be reached at all; later requests are tried for longer."""
        probe = dynamodb_client(self._endpoint_url, attempts=PROBE_ATTEMPTS)
        with contextlib.suppress(probe.exceptions.ResourceNotFoundException):
            probe.describe_table(TableName=self._settings.status_table)

    def _layouts(self) -> dict[str, TableLayout]:
        return {layout.name: layout for layout in self._export.tables}

    def _deliverable(self, items: dict[str, list[Item]]) -> tuple[dict[str, Wanted], list[dict[str, Any]]]:
        """Split a part's items into those that DynamoDB can take, by table and key, and a list of the others.

        Of several items with one key the first is delivered.
        """
        wanted: dict[str, Wanted] = {}
        undeliverable = []
        for table, layout in self._layouts().items():
            deliverable: Wanted = {}
            for item in items[table]:
                reason = _problem(item, layout, deliverable) or self._refused.get((table, key_of(item, layout)))
                if reason is None:
                    deliverable[key_of(item, layout)] = item
                else:
                    undeliverable.append(self._undeliverable(item, layout, reason))
            wanted[table] = deliverable
        return wanted, undeliverable

    def _undeliverable(self, item: Item, layout: TableLayout, reason: str) -> dict[str, Any]:
        key = key_attributes(item, layout)
        entry = {"table": layout.name, "key": key, "reason": reason, "bytes": item_size(item)}
        warn("item can't be delivered", **entry)
        return entry

    def _differences(self, wanted: dict[str, Wanted], dates: Sequence[str]) -> dict[tuple[str, str], Difference]:
        """Compare what is in DynamoDB with what is wanted, by table and date, reading in parallel."""
        by_date: dict[tuple[str, str], Wanted] = {(table, date): {} for table in wanted for date in dates}
        for table, found in wanted.items():
            for key, item in found.items():
                by_date[table, str(key[0])][key] = item
        layouts = self._layouts()

        def compare(place: tuple[str, str]) -> Difference:
            self.lease.check()
            layout = layouts[place[0]]
            return difference(by_date[place], self._query(layout, place[1]), layout)

        with ThreadPoolExecutor(self._settings.writer.workers, thread_name_prefix="read-back") as pool:
            return dict(zip(by_date, pool.map(compare, by_date), strict=True))

    def _query(self, layout: TableLayout, date: str) -> Iterable[Item]:
        pages = self._client.get_paginator("query").paginate(
            TableName=self._settings.table_name(layout.name),
            KeyConditionExpression="#date = :date",
            ExpressionAttributeNames={"#date": layout.partition_key.name},
            ExpressionAttributeValues={":date": {"S": date}},
            ConsistentRead=True,
        )
        for page in pages:
            yield from page["Items"]  # type: ignore[misc]


def deliver(
    lake: Folder,
    run_id: str,
    settings: DeliverySettings,
    endpoint_url: str | None = None,
    *,
    adopt_lake: bool = False,
) -> DeliveryResult:
    """Deliver the export of a run, or the latest undelivered one, completely.

    Args:
        lake: from `open_lake`.
        run_id: the run, or `latest`.
        settings: from `load_delivery_settings`.
        endpoint_url: of DynamoDB, when it isn't the one of the environment.
        adopt_lake: also deliver when another lake has written to these tables, or a higher export_seq has begun.

    Raises:
        AppError: one of the package's errors; run it again when its cause is mended.
    """
    export = latest_undelivered(lake) if run_id == LATEST else read_export(lake, run_id)
    if export is None:
        return DeliveryResult(
            "nothing_to_deliver", "nothing to deliver: the newest export is delivered, or there is none"
        )
    set_log_context(run_id=export.run_id)
    delivery = Delivery(lake, export, settings, endpoint_url)
    try:
        receipt = _all_steps(delivery, export, settings, adopt_lake=adopt_lake)
    except SupersededError as error:
        if delivery.has_written:
            mend_newer(lake, error, settings, endpoint_url)
        return DeliveryResult("superseded", str(error), export.run_id, export.export_seq)
    message = f"export {export.export_seq} of run {export.run_id} is delivered"
    return DeliveryResult("delivered", message, export.run_id, export.export_seq, receipt)


def mend_newer(
    lake: Folder, superseded: SupersededError, settings: DeliverySettings, endpoint_url: str | None = None
) -> None:
    """Deliver the newer export once more, after this process wrote an older one until the newer one took over.

    A batch that was under way then, in a process that was asleep for instance, may have landed after the newer delivery
    had read its days back. Only what differs is written.
    """
    while True:
        newer = superseded.newer_run_id
        log("looking whether a late batch of ours changed the newer export", newer_run_id=newer)
        try:
            export = read_export(lake, newer)
            _all_steps(Delivery(lake, export, settings, endpoint_url), export, settings)
            return
        except SupersededError as even_newer:
            superseded = even_newer
        except AppError as error:
            warn(f"that can't be told; to be sure, deliver run {newer} again", reason=str(error))
            return


def _all_steps(
    delivery: Delivery, export: Export, settings: DeliverySettings, *, adopt_lake: bool = False
) -> dict[str, Any]:
    started = time.monotonic()
    delivery.prepare(adopt_lake=adopt_lake)
    try:
        reports = [delivery.write_part(part.number) for part in export.parts]
        reports = verify_and_mend(delivery, reports, settings.writer.verify_rounds)
        return delivery.finish(reports, time.monotonic() - started)
    except BaseException:
        _release_quietly(delivery)
        raise


def verify_and_mend(delivery: Delivery, reports: Iterable[PartReport], rounds: int) -> list[PartReport]:
    """Read all back, write again what differs, and return all reports, for `Delivery.finish`.

    Raises:
        VerificationError: something still differs after so many rounds.
    """
    reports = list(reports)
    for _ in range(rounds):
        differing = delivery.verify(reports)
        if not differing:
            return reports
        for problem in (problem for problems in differing.values() for problem in problems):
            warn(f"differs from the export, writing it again: {problem}")
        reports += [delivery.write_part(number) for number in differing]
    differing = delivery.verify(reports)
    if differing:
        problems = [problem for found in differing.values() for problem in found]
        raise VerificationError(
            f"after writing {rounds + 1} times DynamoDB still differs from the export, so somebody else writes these "
            f"tables too: {'; '.join(problems[:5])}"
        )
    return reports


def _release_quietly(delivery: Delivery) -> None:
    try:
        delivery.release()
    except Exception as error:  # noqa: BLE001 (the error that brought us here matters more)
        warn("the lease could not be given back and will run out by itself", reason=str(error))


def _problem(item: Item, layout: TableLayout, deliverable: Wanted) -> str | None:
    if key_problem(item, layout) is not None:
        return "bad_key"
    if item_size(item) > MAX_ITEM_BYTES:
        return "too_large"
    return "duplicate_key" if key_of(item, layout) in deliverable else None


def _requests(
    differences: dict[tuple[str, str], Difference], layouts: dict[str, TableLayout]
) -> Iterable[WriteRequest]:
    for (table, _), found in differences.items():
        layout = layouts[table]
        for item in found.puts:
            yield put_request(layout, item)
        for key in found.deletes:
            yield delete_request(layout, key)


def _counts(
    differences: dict[tuple[str, str], Difference], written: dict[str, Counter[str]]
) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for (table, _), found in differences.items():
        done = written.get(table, Counter())
        table_counts = counts.setdefault(
            table, {**{name: done[name] for name in ("put", "deleted", "requests", "retries")}, "unchanged": 0}
        )
        table_counts["unchanged"] += found.unchanged
    return counts


def _combined(
    reports: Iterable[PartReport], tables: list[str]
) -> tuple[dict[str, dict[str, int]], list[dict[str, Any]]]:
    """Add reports up. What was there already is told by a part's first report; what can't be delivered, once."""
    names = ("put", "deleted", "unchanged", "requests", "retries")
    total = {table: dict.fromkeys(names, 0) for table in tables}
    undeliverable: list[dict[str, Any]] = []
    seen: set[int] = set()
    for report in reports:
        repeated = report.part in seen
        seen.add(report.part)
        for table, counts in report.tables.items():
            for name in names:
                total[table][name] += 0 if repeated and name == "unchanged" else counts[name]
        known = [(entry["table"], entry["key"]) for entry in undeliverable]
        undeliverable += [e for e in report.undeliverable if not repeated or (e["table"], e["key"]) not in known]
    return total, undeliverable


def _by_date(undeliverable: list[dict[str, Any]], layouts: dict[str, TableLayout]) -> Counter[str]:
    return Counter(entry["key"][layouts[entry["table"]].partition_key.name]["S"] for entry in undeliverable)
