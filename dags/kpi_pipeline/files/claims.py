"""The ledger of submitted files, in DynamoDB (`ProcessedStreams`): one item per file.

A run claims files before it submits them; two runs never hold a claim on one file. What is `success` or `rejected`
with the same etag is not submitted again; `failed` is. Whether a file's rows count is decided by the lake's own ledger,
so a file that is submitted twice does no harm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from kpi_common.aws import error_code, plain_aws_errors
from kpi_pipeline.aws import dynamodb_client
from kpi_pipeline.dynamodb.items import Item
from kpi_pipeline.dynamodb.lease import utc_now
from kpi_pipeline.dynamodb.tables import FILE_KEY, ensure_table, get_items, processed_streams_layout
from kpi_pipeline.settings import DeliverySettings

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

PROCESSING = "processing"
SUCCESS = "success"
FAILED = "failed"
REJECTED = "rejected"
MAX_REASON = 1000
# The application tries such a file again by itself when songs come, so it stays in the source for that.
UNTIL_SONGS_COME = "too_many_waiting"


@dataclass(frozen=True)
class Entry:
    """What the ledger says of a file; its fields are the item's attributes."""

    filename: str
    status: str
    etag: str
    size: int
    run_id: str
    processed_on: str = ""
    rows: int | None = None
    reason: str = ""

    @property
    def waits_for_songs(self) -> bool:
        """Whether it was rejected only because its songs have not come yet."""
        return self.status == REJECTED and self.reason.startswith(UNTIL_SONGS_COME)

    def to_item(self) -> Item:
        """Return the entry as DynamoDB has it; what is empty is absent."""
        values = {name: value for name, value in asdict(self).items() if value not in (None, "")}
        return {name: {"N": str(value)} if isinstance(value, int) else {"S": value} for name, value in values.items()}

    @classmethod
    def from_item(cls, item: Item) -> Entry:
        """Return the entry of an item."""
        values: dict[str, Any] = {"filename": "", "status": "", "etag": "", "size": 0, "run_id": ""}
        for name in (field.name for field in fields(cls) if field.name in item):
            ((kind, content),) = item[name].items()
            values[name] = int(content) if kind == "N" else content
        return cls(**values)


class ClaimLedger:
    """Reads and conditionally writes the entries."""

    def __init__(self, settings: DeliverySettings, client: DynamoDBClient | None = None) -> None:
        self._settings = settings
        self._client = client or dynamodb_client()
        self._table = settings.processed_streams_table

    def ensure_table(self) -> bool:
        """Make the table if it is missing; `TableError` when it has other keys."""
        with plain_aws_errors("DynamoDB"):
            return ensure_table(self._client, processed_streams_layout(self._settings), self._settings.tables)

    def read(self, filenames: Iterable[str]) -> dict[str, Entry]:
        """Return the entries that are there, by file name."""
        keys: list[Item] = [{FILE_KEY: {"S": name}} for name in dict.fromkeys(filenames)]
        with plain_aws_errors("DynamoDB"):
            entries = map(Entry.from_item, get_items(self._client, self._table, keys))
            return {entry.filename: entry for entry in entries}

    def claim(self, entry: Entry, over: Entry | None) -> bool:
        """Make a file `processing` for the run that the entry names.

        Args:
            entry: the file's etag, size and run.
            over: the entry that was read before; the claim is only made while the ledger still says that.

        Returns:
            Whether the claim was made; not when somebody else changed the entry meanwhile.
        """
        return self._put(replace(entry, status=PROCESSING, processed_on=utc_now()), over)

    def settle(self, before: Entry, status: str, **changes: Any) -> bool:
        """Write what became of a claimed file; not done (False) when another run has the claim by now."""
        reason = str(changes.pop("reason", ""))[:MAX_REASON]
        return self._put(replace(before, status=status, processed_on=utc_now(), reason=reason, **changes), before)

    def forget(self, filename: str) -> None:
        """Delete an entry, so that the file counts as new."""
        with plain_aws_errors("DynamoDB"):
            self._client.delete_item(TableName=self._table, Key={FILE_KEY: {"S": filename}})

    def with_status(self, *statuses: str) -> list[Entry]:
        """Return all entries in one of these states, or all (a scan: for people, not for each run)."""
        with plain_aws_errors("DynamoDB"):
            pages: Any = self._client.get_paginator("scan").paginate(TableName=self._table, ConsistentRead=True)
            entries = [Entry.from_item(item) for page in pages for item in page["Items"]]
        return sorted((e for e in entries if not statuses or e.status in statuses), key=lambda e: e.filename)

    def _put(self, entry: Entry, over: Entry | None) -> bool:
        request: dict[str, Any] = {"TableName": self._table, "Item": entry.to_item()}
        if over is None:
            request["ConditionExpression"] = f"attribute_not_exists({FILE_KEY})"
        else:
            request["ConditionExpression"] = "#status = :status AND run_id = :run AND etag = :etag"
            request["ExpressionAttributeNames"] = {"#status": "status"}  # a reserved word
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
                    return self.read([entry.filename]).get(entry.filename) == entry
                raise
        return True


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
        written = datetime.strptime(processed_on, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        return float("inf")
    return (datetime.now(UTC) - written).total_seconds() / 3600
