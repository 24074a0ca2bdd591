"""Status items: one a date, so that readers can tell a finished day from one being written.

Before the first item of a day changes, its `state` becomes `writing` and `writing_version` the export's number; after
the last one, and after everything was read back, `complete`, with the number as `version`. `version` stays that of the
last complete state while a day is being rewritten. So a reader who sees `complete` and the same version before and
after reading a day (strongly consistent) has read exactly that version; without a status item the day was never
delivered. `undeliverable` counts items of the day that DynamoDB can't hold; it is absent when there are none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from kpi_pipeline.dynamodb.items import Item, same_item
from kpi_pipeline.dynamodb.lease import Export, Lease, utc_now
from kpi_pipeline.dynamodb.tables import STATUS_KEY, get_items
from kpi_pipeline.settings import DeliverySettings

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

WRITING = "writing"
COMPLETE = "complete"


class StatusTable:
    """Reads and writes status items; all writes are fenced by the lease."""

    def __init__(self, client: DynamoDBClient, settings: DeliverySettings, export: Export, lease: Lease) -> None:
        self._client = client
        self._export = export
        self._lease = lease
        self._table = settings.status_table

    def mark_writing(self, dates: Iterable[str]) -> None:
        """Tell readers that these days are changing."""
        names = {"#state": "state", "#writing": "writing_version", "#at": "updated_at"}
        values = {":state": {"S": WRITING}, ":seq": {"N": str(self._export.export_seq)}, ":at": {"S": utc_now()}}
        self._lease.write_fenced(
            [
                {
                    "Update": {
                        "TableName": self._table,
                        "Key": {STATUS_KEY: {"S": date}},
                        "UpdateExpression": "SET #state = :state, #writing = :seq, #at = :at",
                        "ExpressionAttributeNames": names,
                        "ExpressionAttributeValues": values,
                    }
                }
                for date in dates
            ]
        )

    def mark_complete(self, undeliverable: Mapping[str, int]) -> None:
        """Tell readers that all days of the export are finished.

        Args:
            undeliverable: by date, how many items could not be delivered.
        """
        keys = [{STATUS_KEY: {"S": date}} for date in self._export.dates]
        present = {item[STATUS_KEY]["S"]: item for item in get_items(self._client, self._table, keys)}
        updated_at = utc_now()
        changed = []
        for date in self._export.dates:
            item = self._complete_item(date, undeliverable.get(date, 0))
            before = {name: value for name, value in present.get(date, {}).items() if name != "updated_at"}
            if not same_item(item, before):
                item["updated_at"] = {"S": updated_at}
                changed.append({"Put": {"TableName": self._table, "Item": item}})
        self._lease.write_fenced(changed)

    def _complete_item(self, date: str, undeliverable: int) -> Item:
        item: Item = {
            STATUS_KEY: {"S": date},
            "state": {"S": COMPLETE},
            "version": {"N": str(self._export.export_seq)},
            "run_id": {"S": self._export.run_id},
        }
        if self._export.complete_through is not None:
            item["complete_through"] = {"S": self._export.complete_through}
        if undeliverable:
            item["undeliverable"] = {"N": str(undeliverable)}
        return item
