"""Deliveries never go back in time: the control item with the highest export_seq begun, and a lease on writing.

- A newer export takes over from an older one, even while that is being written, because it contains it. An older one
  never takes over: it is superseded. Both only within one lake; another lake is refused.
- Of two writers of the same export one writes and the other waits, until the lease is given back or runs out.
- A writer looks at the item before each batch (at most every `CHECK_SECONDS`), so after a takeover only batches under
  way can still land. The newer writer lets `GRACE_SECONDS` pass before it reads what is there, and verifies at the end.
- A writer that finds itself taken over while it wrote delivers the newer export once more: so even a batch that landed
  after the newer writer had read all back is mended.
- What tells finished days (the status items) is written in transactions that check the holder: none can land late.

Clocks only decide how soon a dead writer's lease is taken over by a writer of the same export.
"""

from __future__ import annotations

import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from botocore.exceptions import ClientError

from kpi_common.aws import error_code
from kpi_common.errors import AwsError
from kpi_common.log import log
from kpi_pipeline.dynamodb.tables import STATUS_KEY
from kpi_pipeline.errors import LeaseError, OtherLakeError, SupersededError
from kpi_pipeline.settings import DeliverySettings

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

# The control item lives in the status table, under a key that is no date.
CONTROL_KEY = "#control"
ATTRIBUTES = (
    "export_seq",  # the highest export that was ever begun
    "lake_id",  # of the lake that it is of
    "run_id",
    "holder",  # who writes now; absent when nobody does
    "lease_until",  # seconds since 1970
    "updated_at",
)
CHECK_SECONDS = 0.25
GRACE_SECONDS = 1.0
POLL_SECONDS = 0.5
MAX_TRANSACTION_ACTIONS = 100
CONFLICT_TRIES = 20
CONFLICT_WAIT_S = 0.5
PASSING_REASONS = frozenset({"None", "TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"})

Answer = TypeVar("Answer")


def new_holder() -> str:
    """Return a name for a writer that no other has."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:12]}"


def utc_now() -> str:
    """Return the present instant as the project writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Export(Protocol):
    """What the lease and the status need of an export."""

    @property
    def lake_id(self) -> str | None: ...
    @property
    def run_id(self) -> str: ...
    @property
    def export_seq(self) -> int: ...
    @property
    def complete_through(self) -> str | None: ...
    @property
    def dates(self) -> tuple[str, ...]: ...


class Lease:
    """The right to write an export. A holder that is given again (by an Airflow task) goes on with its lease."""

    def __init__(
        self, client: DynamoDBClient, settings: DeliverySettings, export: Export, holder: str | None = None
    ) -> None:
        self.holder = holder or new_holder()
        self._client = client
        self._export = export
        self._lease_seconds = settings.writer.lease_seconds
        self._wait_seconds = settings.writer.wait_seconds
        self._table = settings.status_table
        self._key = {STATUS_KEY: {"S": CONTROL_KEY}}
        self._lock = threading.Lock()
        self._checked_at = float("-inf")

    def acquire(self, *, adopt_lake: bool = False) -> None:
        """Take the lease, waiting for another writer of the same export.

        Args:
            adopt_lake: also take it when another lake has written to these tables, or a higher export_seq has begun.

        Raises:
            SupersededError: a newer export has begun.
            OtherLakeError: the tables were written from another lake.
            LeaseError: another writer of this export was at work for longer than the settings allow to wait.
        """
        deadline = time.monotonic() + self._wait_seconds
        logged = False
        while True:
            taken, item = self._try_to_acquire(adopt_lake=adopt_lake)
            if taken:
                if self._is_live(item) and self._text(item, "holder") != self.holder:
                    log("took over from the writer of an older export", run_id=self._text(item, "run_id"))
                    time.sleep(GRACE_SECONDS)
                return
            self._raise_if_not_ours(item, adopt_lake=adopt_lake)
            holder = self._text(item, "holder")
            if time.monotonic() >= deadline:
                raise LeaseError(
                    f"export {self._export.export_seq} is being written by {holder}, and still was after "
                    f"{self._wait_seconds:.0f} s (writer.wait_seconds)"
                )
            if not logged:
                logged = True
                left = max(0.0, float(self._text(item, "lease_until") or 0) - time.time())
                log("waiting for another writer of the same export", holder=holder, lease_seconds_left=round(left, 1))
            time.sleep(POLL_SECONDS)

    def check(self) -> None:
        """Make sure that this writer still has the lease, and renew it; cheap when that was done just now.

        Raises:
            SupersededError: a newer export has begun.
            LeaseError: another writer of the same export took over, because this one was silent for too long.
        """
        if time.monotonic() - self._checked_at < CHECK_SECONDS:
            return
        with self._lock:
            if time.monotonic() - self._checked_at < CHECK_SECONDS:
                return
            asked_at = time.monotonic()
            self._renew()
            self._checked_at = asked_at

    def release(self) -> None:
        """Give the lease back; nothing happens when it is another's by now."""
        try:
            self._update("REMOVE #holder, #lease_until", "#holder = :holder", {":holder": {"S": self.holder}})
        except ClientError as error:
            if error_code(error) != "ConditionalCheckFailedException":
                raise

    def write_fenced(self, actions: Sequence[dict[str, Any]]) -> None:
        """Carry out actions of TransactWriteItems, in transactions that fail when the lease is another's.

        Raises:
            SupersededError, LeaseError: as `check`.
        """
        fence = {
            "ConditionCheck": {
                "TableName": self._table,
                "Key": self._key,
                "ConditionExpression": "#holder = :holder",
                "ExpressionAttributeNames": {"#holder": "holder"},
                "ExpressionAttributeValues": {":holder": {"S": self.holder}},
            }
        }
        size = MAX_TRANSACTION_ACTIONS - 1
        for start in range(0, len(actions), size):
            self._transact([fence, *actions[start : start + size]])

    def _transact(self, actions: list[dict[str, Any]]) -> None:
        try:
            _retry_conflicts(lambda: self._client.transact_write_items(TransactItems=actions))  # type: ignore[arg-type]
        except ClientError as error:
            if "ConditionalCheckFailed" in _cancellation_reasons(error):
                self._raise_lost(self._read())
            raise

    def _try_to_acquire(self, *, adopt_lake: bool) -> tuple[bool, dict[str, Any]]:
        """Return whether the lease was taken, and the item as it was before."""
        values = {
            ":seq": {"N": str(self._export.export_seq)},
            ":run": {"S": self._export.run_id},
            ":holder": {"S": self.holder},
            ":until": {"N": f"{time.time() + self._lease_seconds:.3f}"},
            ":at": {"S": utc_now()},
            ":now": {"N": f"{time.time():.3f}"},
        }
        lake_id = self._export.lake_id
        same_lake = "attribute_not_exists(#lake_id)"
        update = "SET #export_seq = :seq, #run_id = :run, #holder = :holder, #lease_until = :until, #updated_at = :at"
        if lake_id is None:
            update += " REMOVE #lake_id"
        else:
            values[":lake"] = {"S": lake_id}
            update += ", #lake_id = :lake"
            same_lake = f"({same_lake} OR #lake_id = :lake)"
        free = "(attribute_not_exists(#holder) OR #holder = :holder OR #lease_until < :now)"
        same = f"(#export_seq = :seq AND #run_id = :run AND {free})"
        condition = f"attribute_not_exists(#export_seq) OR ({same_lake} AND (#export_seq < :seq OR {same}))"
        if adopt_lake:
            condition = f"attribute_not_exists(#export_seq) OR {free}"
        try:
            return True, self._update(update, condition, values, return_values="ALL_OLD")
        except ClientError as error:
            if error_code(error) != "ConditionalCheckFailedException":
                raise
            return False, self._read()

    def _renew(self) -> None:
        values = {":holder": {"S": self.holder}, ":until": {"N": f"{time.time() + self._lease_seconds:.3f}"}}
        try:
            self._update("SET #lease_until = :until", "#holder = :holder", values)
        except ClientError as error:
            if error_code(error) != "ConditionalCheckFailedException":
                raise
            self._raise_lost(self._read())

    def _update(
        self, update: str, condition: str, values: dict[str, dict[str, str]], return_values: str = "NONE"
    ) -> dict[str, Any]:
        text = f"{update} {condition}"
        names = {f"#{name}": name for name in ATTRIBUTES if f"#{name}" in text}
        request: dict[str, Any] = {
            "TableName": self._table,
            "Key": self._key,
            "UpdateExpression": update,
            "ConditionExpression": condition,
            "ExpressionAttributeNames": names,
            "ExpressionAttributeValues": {key: value for key, value in values.items() if key in text},
            "ReturnValues": return_values,
        }
        return _retry_conflicts(lambda: dict(self._client.update_item(**request).get("Attributes", {})))

    def _read(self) -> dict[str, Any]:
        return dict(self._client.get_item(TableName=self._table, Key=self._key, ConsistentRead=True).get("Item", {}))

    def _text(self, item: dict[str, Any], attribute: str) -> str:
        value = item.get(attribute, {})
        return str(next(iter(value.values()), ""))

    def _is_live(self, item: dict[str, Any]) -> bool:
        return bool(self._text(item, "holder")) and float(self._text(item, "lease_until") or 0) >= time.time()

    def _raise_if_not_ours(self, item: dict[str, Any], *, adopt_lake: bool) -> None:
        if adopt_lake:
            return
        ours, lake_id = self._export, self._text(item, "lake_id")
        begun, run_id = int(self._text(item, "export_seq") or 0), self._text(item, "run_id")
        same_export = (begun, run_id) == (ours.export_seq, ours.run_id)
        # Without an id, of the release before: a lake's numbers go on rising, so one above ours is not our lake's.
        other_lake = ours.lake_id is not None and begun > ours.export_seq
        if lake_id:
            other_lake = lake_id != ours.lake_id
        if other_lake or (begun == ours.export_seq and not same_export):
            raise OtherLakeError(
                f"export_seq {begun} was already used by run {run_id}: these tables were written from another lake "
                f"({lake_id or 'without an id'}; this is {ours.lake_id or 'one without an id'}). "
                "Use another --table-prefix, or --adopt-lake if this lake takes its place."
            )
        if begun > ours.export_seq:
            raise SupersededError(ours.export_seq, begun, run_id)

    def _raise_lost(self, item: dict[str, Any]) -> None:
        self._raise_if_not_ours(item, adopt_lake=False)
        raise LeaseError(
            f"export {self._export.export_seq}: another writer ({self._text(item, 'holder') or 'finished by now'}) "
            "took over, because this one was silent for too long"
        )


def _retry_conflicts(call: Callable[[], Answer]) -> Answer:
    """Call again when another transaction was at work on the same item at the same moment."""
    for attempt in range(CONFLICT_TRIES):
        try:
            return call()
        except ClientError as error:
            reasons = _cancellation_reasons(error)
            passing = bool(reasons) and reasons <= PASSING_REASONS
            if not passing and error_code(error) != "TransactionConflictException":
                raise
        time.sleep(random.uniform(0, CONFLICT_WAIT_S * min(attempt + 1, 4)))  # noqa: S311
    raise AwsError("the control item is changed by others all the time")


def _cancellation_reasons(error: ClientError) -> set[str]:
    reasons: Any = error.response.get("CancellationReasons", [])
    return {str(reason.get("Code", "None")) for reason in reasons}
