"""Status items: one a date, so that readers can tell a finished day from one being written.

Before the first item of a day changes, its state becomes `writing`; after the last one and after everything was read
back, `complete`, with the export's number as the version. `version` stays that of the last complete state while a day
is being rewritten. So a reader who sees `complete` and the same version before and after reading a day has read
exactly that version; without a status item the day was never delivered.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from kpi_pipeline.dynamodb.items import Item, same_item
from kpi_pipeline.dynamodb.lease import Lease, utc_now
from kpi_pipeline.errors import AwsError
from kpi_pipeline.export.reader import Export
from kpi_pipeline.settings import DeliverySettings

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

WRITING = "writing"
COMPLETE = "complete"
MAX_GET_KEYS = 100
GET_TRIES = 15


class StatusTable:
    """Reads and writes status items; all writes are fenced by the lease."""

    def __init__(self, client: DynamoDBClient, settings: DeliverySettings, export: Export, lease: Lease) -> None:
        self._client = client
        self._export = export
        self._lease = lease
        self._names = settings.status.attributes
        self._key = settings.status.partition_key
        self._table = settings.table_name(settings.status.name)

    def mark_writing(self, dates: Iterable[str]) -> None:
        """Tell readers that these days are changing."""
        names = {"#state": self._names.state, "#writing": self._names.writing_version, "#at": self._names.updated_at}
        values = {":state": {"S": WRITING}, ":seq": {"N": str(self._export.export_seq)}, ":at": {"S": utc_now()}}
        self._lease.write_fenced(
            [
                {
                    "Update": {
                        "TableName": self._table,
                        "Key": {self._key: {"S": date}},
                        "UpdateExpression": "SET #state = :state, #writing = :seq, #at = :at",
                        "ExpressionAttributeNames": names,
                        "ExpressionAttributeValues": values,
                    }
                }
                for date in dates
            ]
        )

    def mark_complete(self, undeliverable: Mapping[str, int]) -> int:
        """Tell readers that all days of the export are finished; return how many items that changed.

        Args:
            undeliverable: by date, how many items could not be delivered.
        """
        there = self._read(self._export.dates)
        updated_at = utc_now()
        changed = []
        for date in self._export.dates:
            item = self._complete_item(date, undeliverable.get(date, 0))
            present = {name: value for name, value in there.get(date, {}).items() if name != self._names.updated_at}
            if not same_item(item, present):
                item[self._names.updated_at] = {"S": updated_at}
                changed.append({"Put": {"TableName": self._table, "Item": item}})
        self._lease.write_fenced(changed)
        return len(changed)

    def _complete_item(self, date: str, undeliverable: int) -> Item:
        item: Item = {
            self._key: {"S": date},
            self._names.state: {"S": COMPLETE},
            self._names.version: {"N": str(self._export.export_seq)},
            self._names.run_id: {"S": self._export.run_id},
        }
        if self._export.complete_through is not None:
            item[self._names.complete_through] = {"S": self._export.complete_through}
        if undeliverable:
            item[self._names.undeliverable] = {"N": str(undeliverable)}
        return item

    def _read(self, dates: tuple[str, ...]) -> dict[str, Item]:
        found: dict[str, Item] = {}
        for start in range(0, len(dates), MAX_GET_KEYS):
            keys = [{self._key: {"S": date}} for date in dates[start : start + MAX_GET_KEYS]]
            request: Any = {self._table: {"Keys": keys, "ConsistentRead": True}}
            for attempt in range(GET_TRIES):
                answer: Any = self._client.batch_get_item(RequestItems=request)
                found.update({item[self._key]["S"]: item for item in answer["Responses"].get(self._table, [])})
                request = answer.get("UnprocessedKeys")
                if not request:
                    break
                time.sleep(random.uniform(0, min(0.05 * 2**attempt, 5)))  # noqa: S311
            else:
                raise AwsError(f"{self._table}: DynamoDB handed back keys to read as unprocessed {GET_TRIES} times")
        return found
