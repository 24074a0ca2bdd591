"""BatchWriteItem in parallel threads, with one pace for all of them.

What DynamoDB hands back as unprocessed goes to the front of the queue and fills up later batches. An item that it
refuses for good is found by halving its batch, and left out: one bad item doesn't hold up a day.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError, HTTPClientError

from kpi_common.aws import error_code
from kpi_common.errors import AwsError
from kpi_common.layout import TableLayout
from kpi_pipeline.dynamodb.items import Item, Key, item_size, key_of, write_units
from kpi_pipeline.dynamodb.pace import Pace
from kpi_pipeline.settings import WriterSettings

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

MAX_BATCH_ITEMS = 25
MAX_BATCH_BYTES = 15 * 1024 * 1024  # of the 16 MB that DynamoDB takes
LONGEST_ESCAPE = 6  # bytes that a byte of UTF-8 has at most in JSON
MAX_REFUSED = 100  # more than these are no matter of single items
REFUSALS = frozenset(
    {
        "InternalServerError",
        "InternalServiceError",
        "LimitExceededException",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "ServiceUnavailable",
        "Throttling",
        "ThrottlingException",
        "TransactionInProgressException",
    }
)
SERVER_ERROR = 500


@dataclass(frozen=True, eq=False)
class WriteRequest:
    """One item to put or key to delete; `size` in bytes as DynamoDB counts them."""

    layout: TableLayout
    key: Key
    item: Item
    is_put: bool
    size: int

    @property
    def units(self) -> int:
        return write_units(self.size)

    def to_json(self) -> dict[str, Any]:
        """Return the entry in BatchWriteItem."""
        return {"PutRequest": {"Item": self.item}} if self.is_put else {"DeleteRequest": {"Key": self.item}}


def put_request(layout: TableLayout, item: Item) -> WriteRequest:
    """Return the request that puts an item."""
    return WriteRequest(layout, key_of(item, layout), item, is_put=True, size=item_size(item))


def delete_request(layout: TableLayout, key: Item) -> WriteRequest:
    """Return the request that deletes the item with this key."""
    return WriteRequest(layout, key_of(key, layout), key, is_put=False, size=1)


class BatchWriter:
    """Writes and deletes items; `refused` has those of the last `write` that DynamoDB never takes, with its words."""

    def __init__(
        self,
        client: DynamoDBClient,
        settings: WriterSettings,
        prefix: str = "",
        before_each: Callable[[], None] = lambda: None,
    ) -> None:
        """Use a client that retries nothing by itself.

        Args:
            client: see `aws.batch_client`.
            settings: threads, rates and waits.
            prefix: put before the layouts' table names.
            before_each: called right before each batch is sent; what it raises ends the writing.
        """
        self._client = client
        self._settings = settings
        self._prefix = prefix
        self._before_each = before_each
        self._stop = threading.Event()
        self._pace = Pace(settings, sleep=self._stop.wait)
        self._changed = threading.Condition()
        self._queue: deque[WriteRequest] = deque()
        self._in_flight = 0
        self._error: BaseException | None = None
        self._counts: dict[str, Counter[str]] = {}
        self.refused: list[tuple[WriteRequest, str]] = []

    def write(self, requests: Iterable[WriteRequest]) -> dict[str, Counter[str]]:
        """Send all requests and return when DynamoDB has taken them. Keys must be unique within a table.

        Returns:
            By table how many were `put` and `deleted`, the `requests` sent and the `retries` among them.

        Raises:
            TooManyRetriesError: DynamoDB took nothing for too long.
            AwsError: DynamoDB refused a request for good, for another reason than a single item.
        """
        self._queue, self._counts, self._error = deque(requests), {}, None
        self.refused = []
        self._in_flight = 0
        self._stop.clear()
        if not self._queue:
            return {}
        workers = min(self._settings.workers, -(-len(self._queue) // MAX_BATCH_ITEMS))
        with ThreadPoolExecutor(workers, thread_name_prefix="batch-writer") as pool:
            try:
                for worker in [pool.submit(self._work) for _ in range(workers)]:
                    worker.result()
            finally:
                self._stop_all()
        if self._error is not None:
            raise self._error
        return self._counts

    def _stop_all(self) -> None:
        with self._changed:
            self._stop.set()
            self._changed.notify_all()

    def _work(self) -> None:
        while (batch := self._next_batch()) is not None:
            left = batch
            try:
                left = self._send(batch)
            except BaseException as error:  # noqa: BLE001 (raised again by the thread that waits for all)
                self._error = self._error or error
                self._stop_all()
            finally:
                with self._changed:
                    self._queue.extendleft(reversed(left))
                    self._in_flight -= 1
                    self._changed.notify_all()

    def _next_batch(self) -> list[WriteRequest] | None:
        """Return up to 25 requests, waiting for what others may hand back; None when all is done."""
        with self._changed:
            while not self._queue and self._in_flight and not self._stop.is_set():
                self._changed.wait()
            if not self._queue or self._stop.is_set():
                return None
            batch = [self._queue.popleft()]
            size = LONGEST_ESCAPE * batch[0].size
            while self._queue and len(batch) < MAX_BATCH_ITEMS:
                size += LONGEST_ESCAPE * self._queue[0].size
                if size > MAX_BATCH_BYTES:
                    break
                batch.append(self._queue.popleft())
            self._in_flight += 1
            return batch

    def _send(self, batch: list[WriteRequest]) -> list[WriteRequest]:
        """Send one batch and return what DynamoDB did not take."""
        sent_at = self._pace.wait(sum(request.units for request in batch))
        if self._stop.is_set():
            return batch
        left, reason = self._try(batch)
        not_taken = {id(request) for request in (*left, *(request for request, _ in self.refused))}
        taken = [request for request in batch if id(request) not in not_taken]
        self._count(batch, taken)
        if taken:
            self._pace.taken(sum(request.units for request in taken))
        if left:
            self._pace.refused(sent_at, sum(request.units for request in left), len(left) / len(batch), reason)
        return left

    def _try(self, batch: list[WriteRequest]) -> tuple[list[WriteRequest], str]:
        self._before_each()
        by_table: dict[str, list[WriteRequest]] = {}
        for request in batch:
            by_table.setdefault(self._prefix + request.layout.name, []).append(request)
        entries: Any = {table: [one.to_json() for one in requests] for table, requests in by_table.items()}
        try:
            answer = self._client.batch_write_item(RequestItems=entries)
        except ClientError as error:
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            if error_code(error) in REFUSALS or status >= SERVER_ERROR:
                return batch, str(error)
            if error_code(error) == "ValidationException":
                return self._without_bad_items(batch, error)
            raise AwsError(f"writing to {', '.join(by_table)}: {error}") from error
        except HTTPClientError as error:  # no connection, or no answer: it may or may not have been done
            return batch, str(error)
        return _unprocessed(answer.get("UnprocessedItems", {}), by_table), "items were handed back as unprocessed"

    def _without_bad_items(self, batch: list[WriteRequest], error: ClientError) -> tuple[list[WriteRequest], str]:
        """Find the items that DynamoDB refuses by halving the batch, and write the others."""
        if len(batch) > 1:
            middle = len(batch) // 2
            (first, reason), (second, other) = self._try(batch[:middle]), self._try(batch[middle:])
            return first + second, reason if first else other
        message = str(error.response.get("Error", {}).get("Message", error))
        with self._changed:
            self.refused.append((batch[0], message))
            if len(self.refused) > MAX_REFUSED:
                raise AwsError(f"DynamoDB refused more than {MAX_REFUSED} items, at last with: {message}") from error
        return [], ""

    def _count(self, batch: list[WriteRequest], taken: list[WriteRequest]) -> None:
        with self._changed:
            first = self._counts.setdefault(batch[0].layout.name, Counter())
            first["requests"] += 1
            first["retries"] += len(taken) < len(batch)
            for request in taken:
                self._counts.setdefault(request.layout.name, Counter())["put" if request.is_put else "deleted"] += 1


def _unprocessed(answer: Any, by_table: dict[str, list[WriteRequest]]) -> list[WriteRequest]:
    left = []
    for table, entries in answer.items():
        requests = {request.key: request for request in by_table[table]}
        for entry in entries:
            key = entry["PutRequest"]["Item"] if "PutRequest" in entry else entry["DeleteRequest"]["Key"]
            left.append(requests[key_of(key, by_table[table][0].layout)])
    return left
