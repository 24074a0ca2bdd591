"""The ledger of submitted files, in DynamoDB (`ProcessedStreams`): one item a file.

A run claims files before it submits them; two runs never hold a claim on one file. What is `success` or `rejected`
with the same etag is not submitted again; `failed` is. Whether a file's rows count is decided by the lake's own ledger,
so a file that is submitted twice does no harm.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Callable

from botocore.exceptions import ClientError

from kpi_common.aws import error_code, plain_aws_errors
from kpi_pipeline.aws import dynamodb_client
from kpi_pipeline.dynamodb.items import Item
from kpi_pipeline.dynamodb.lease import utc_now
from kpi_pipeline.dynamodb.tables import ensure_table, processed_streams_layout
from kpi_pipeline.errors import AwsError
from kpi_pipeline.settings import DeliverySettings

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

PROCESSING = "processing"
SUCCESS = "success"
FAILED = "failed"
REJECTED = "rejected"
MAX_GET_KEYS = 100
GET_TRIES = 15
MAX_REASON = 2000
# The application tries such a file again by itself when songs come, so it stays in the source for that.
UNTIL_SONGS_COME = "too_many_waiting"


@dataclass(frozen=True)
class Entry:
    """What the ledger says of a file; `attempts` counts Spark jobs that failed with it."""

    filename: str
    status: str
    etag: str
    size: int
    run_id: str
    processed_on: str = ""
    rows: int | None = None
    reason: str = ""
    attempts: int = 0

    @property
    def waits_for_songs(self) -> bool:
        """Whether it was rejected only because its songs have not come yet."""
        return self.status == REJECTED and self.reason.startswith(UNTIL_SONGS_COME)


class ClaimLedger:
    """Reads and conditionally writes the entries."""

    def __init__(self, settings: DeliverySettings, client: DynamoDBClient | None = None) -> None:
        self._settings = settings
        self._client = client or dynamodb_client()
        self._names = settings.processed_streams.attributes
        self._key = settings.processed_streams.partition_key
        self._table = settings.table_name(settings.processed_streams.name)

    def ensure_table(self) -> bool:
        """Make the table if it is missing; `TableError` when it has other keys."""
        with plain_aws_errors("DynamoDB"):
            return ensure_table(self._client, processed_streams_layout(self._settings), self._settings.tables)

    def read(self, filenames: Iterable[str]) -> dict[str, Entry]:
        """Return the entries that are there, by file name."""
        wanted = list(dict.fromkeys(filenames))
        found: dict[str, Entry] = {}
        with plain_aws_errors("DynamoDB"):
            for start in range(0, len(wanted), MAX_GET_KEYS):
                for item in self._get(wanted[start : start + MAX_GET_KEYS]):
                    entry = self._entry(item)
                    found[entry.filename] = entry
        return found

    def claim(self, entry: Entry, over: Entry | None) -> bool:
        """Make a file `processing` for the run that the entry names.

        Args:
            entry: the file's etag, size and run.
            over: the entry that was read before; the claim is only made while the ledger still says that.

        Returns:
            Whether the claim was made; not when somebody else changed the entry meanwhile.
        """
        attempts = over.attempts if over is not None and over.etag == entry.etag else 0
        return self._put(replace(entry, status=PROCESSING, processed_on=utc_now(), attempts=attempts), over)

    def settle(self, before: Entry, status: str, **changes: Any) -> bool:
        """Write what became of a claimed file; not done (False) when another run has the claim by now."""
        changes.setdefault("reason", "")
        return self._put(replace(before, status=status, processed_on=utc_now(), **changes), before)

    def forget(self, filename: str) -> None:
        """Delete an entry, so that the file counts as new."""
        with plain_aws_errors("DynamoDB"):
            self._client.delete_item(TableName=self._table, Key={self._key: {"S": filename}})

    def with_status(self, *statuses: str) -> list[Entry]:
        """Return all entries in one of these states, or all (a scan: for people, not for each run)."""
        with plain_aws_errors("DynamoDB"):
            pages = self._client.get_paginator("scan").paginate(TableName=self._table, ConsistentRead=True)
            entries = [self._entry(item) for page in pages for item in page["Items"]]  # type: ignore[arg-type]
        return sorted((e for e in entries if not statuses or e.status in statuses), key=lambda e: e.filename)

    def _put(self, entry: Entry, over: Entry | None) -> bool:
        request: dict[str, Any] = {"TableName": self._table, "Item": self._item(entry)}
        names = self._names
        if over is None:
            request["ConditionExpression"] = "attribute_not_exists(#key)"
            request["ExpressionAttributeNames"] = {"#key": self._key}
        else:
            request["ConditionExpression"] = "#status = :status AND #run = :run AND #etag = :etag"
            request["ExpressionAttributeNames"] = {"#status": names.status, "#run": names.run_id, "#etag": names.etag}
            request["ExpressionAttributeValues"] = {
                ":status": {"S": over.status},
                ":run": {"S": over.run_id},
                ":etag": {"S": over.etag},
            }
        with plain_aws_errors("DynamoDB"):
            try:
                self._client.put_item(**request)
            except ClientError as error:
                if error_code(error) == "ConditionalCheckFailedException":
                    # Also after a lost reply: then the entry is the one that was to be written.
                    return self._is_written(entry)
                raise
        return True

    def _is_written(self, entry: Entry) -> bool:
        there = self.read([entry.filename]).get(entry.filename)
        return there is not None and there == entry

    def _get(self, filenames: Sequence[str]) -> Iterable[Item]:
        keys = [{self._key: {"S": name}} for name in filenames]
        request: Any = {self._table: {"Keys": keys, "ConsistentRead": True}}
        for attempt in range(GET_TRIES):
            answer: Any = self._client.batch_get_item(RequestItems=request)
            yield from answer["Responses"].get(self._table, [])
            request = answer.get("UnprocessedKeys")
            if not request:
                return
            time.sleep(random.uniform(0, min(0.05 * 2**attempt, 5)))  # noqa: S311
        raise AwsError(f"{self._table}: DynamoDB handed back keys to read as unprocessed {GET_TRIES} times")

    def _item(self, entry: Entry) -> Item:
        names = self._names
        item: Item = {
            self._key: {"S": entry.filename},
            names.status: {"S": entry.status},
            names.processed_on: {"S": entry.processed_on},
            names.etag: {"S": entry.etag},
            names.size: {"N": str(entry.size)},
            names.run_id: {"S": entry.run_id},
            names.attempts: {"N": str(entry.attempts)},
        }
        if entry.rows is not None:
            item[names.rows] = {"N": str(entry.rows)}
        if entry.reason:
            item[names.reason] = {"S": entry.reason[:MAX_REASON]}
        return item

    def _entry(self, item: Item) -> Entry:
        names = self._names

        def text(name: str) -> str:
            return str(item.get(name, {}).get("S", ""))

        def number(name: str) -> int | None:
            return int(item[name]["N"]) if "N" in item.get(name, {}) else None

        return Entry(
            filename=text(self._key),
            status=text(names.status),
            etag=text(names.etag),
            size=number(names.size) or 0,
            run_id=text(names.run_id),
            processed_on=text(names.processed_on),
            rows=number(names.rows),
            reason=text(names.reason),
            attempts=number(names.attempts) or 0,
        )


@dataclass(frozen=True)
class Liveness:
    """Tells whether the run that holds a claim is at work.

    Args:
        run_state: Airflow's state of a run, or None where it knows none of that id (another Airflow's, or deleted).
        claim_hours: a claim of a run that Airflow doesn't know is given up after this.
    """

    run_state: Callable[[str], str | None]
    claim_hours: float

    def is_dead(self, entry: Entry) -> bool:
        """Whether a `processing` entry is left from a run that has ended."""
        state = self.run_state(entry.run_id)
        if state is not None:
            return state not in ("running", "queued")
        return age_hours(entry.processed_on) > self.claim_hours


def age_hours(processed_on: str) -> float:
    """Return how long ago an entry was written; endless when it doesn't say."""
    try:
        written = datetime.strptime(processed_on, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    except ValueError:
        return float("inf")
    return (datetime.now(timezone.utc) - written).total_seconds() / 3600
