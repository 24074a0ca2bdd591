"""The KPI tables in DynamoDB, read-only, in the layout of `conf/dynamodb`: days with their status, page by page."""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Any

from botocore.exceptions import ClientError
from cachetools import TTLCache

from api.problems import bad_request
from kpi_common.aws import client_config, error_code, new_client
from kpi_common.conf_files import load_toml

Item = Mapping[str, Any]
STATUS_KEY = "date"
CONTROL_KEY = "#control"  # the item in the table of statuses that is no day, but says who writes and what was written
LOOK_EVERY_S = 5.0
FRESH_S = 30.0
MOST_STATUSES = 10_000  # kept in memory
CONNECTIONS = 32
_WRONG_TOKEN = bad_request("`next` is no token of this question; take the one that the page before gave")


@dataclass(frozen=True)
class DayStatus:
    """What `KPIStatus` says of a day."""

    date: str
    state: str
    version: int | None
    run_id: str | None = None
    updated_at: str | None = None
    complete_through: str | None = None

    @property
    def complete(self) -> bool:
        """Whether the day is finished, and not being written."""
        return self.state == "complete"


@dataclass(frozen=True)
class Rows:
    """A page of rows by column of the lake, and the token of the next one."""

    rows: list[dict[str, Any]]
    next: str | None


class KpiStore:
    """Reads days. What was seen less than five seconds ago counts as seen before the rows are read."""

    def __init__(self) -> None:
        names = load_toml("dynamodb/operations.toml")["tables"]
        self._prefix = os.environ.get("MUSIC_KPIS_DYNAMODB_PREFIX", names["prefix"])
        self._status_table = self._prefix + os.environ.get("MUSIC_KPIS_DYNAMODB_STATUS", names["status"])
        self._layout = load_toml("dynamodb/kpi_tables.toml")["tables"]
        self._client = new_client("dynamodb", config=client_config(connections=CONNECTIONS, attempts=3, read_timeout=5))
        self._lock = Lock()  # of what is kept
        self._last_delivery: TTLCache[None, Hashable] = TTLCache(1, LOOK_EVERY_S)
        self._statuses: TTLCache[tuple[Hashable, str], DayStatus | None] = TTLCache(MOST_STATUSES, FRESH_S)
        self._newest_day: TTLCache[None, DayStatus | None] = TTLCache(1, FRESH_S)

    def last_delivery(self, *, fresh: bool = False) -> Hashable:
        """Return what stands for the last delivery, as of at most five seconds ago; `fresh`: as of now.

        As long as it is the same, nothing was written. While a delivery writes, each look finds another.
        """
        with self._lock, suppress(KeyError):
            if not fresh:
                return self._last_delivery[None]
        control = self._status_items([CONTROL_KEY]).get(CONTROL_KEY, {})
        known = control and "holder" not in control
        delivery = tuple(control.get(name) for name in ("lake_id", "export_seq", "updated_at")) if known else object()
        if not fresh:  # while one writes, what others keep by an earlier look stays for its five seconds
            with self._lock:
                self._last_delivery[None] = delivery
        return delivery

    def status(self, date: str, *, fresh: bool = False) -> DayStatus | None:
        """Return a day's status, at most five seconds old; `fresh`: as it is now."""
        return self.statuses([date], fresh=fresh)[date]

    def statuses(self, dates: Sequence[str], *, fresh: bool = False) -> dict[str, DayStatus | None]:
        """Return the statuses of up to 100 days, at most five seconds old; `fresh`: as they are now."""
        delivery = self.last_delivery(fresh=fresh)
        found: dict[str, DayStatus | None] = {}
        with self._lock:
            for date in dates:
                with suppress(KeyError):
                    found[date] = self._statuses[delivery, date]
        unknown = [date for date in dates if date not in found]
        if unknown:
            items = self._status_items(unknown)
            read = {date: _day_status(items[date]) if date in items else None for date in unknown}
            with self._lock:
                self._statuses.update({(delivery, date): status for date, status in read.items()})
            found |= read
        return found

    def _status_items(self, keys: Sequence[str]) -> dict[str, dict[str, str]]:
        """Return the items of the table of statuses that are there, by key, as texts."""
        unread: Any = [{STATUS_KEY: {"S": key}} for key in keys]
        items: dict[str, dict[str, str]] = {}
        while unread:
            asked = {self._status_table: {"Keys": unread, "ConsistentRead": True}}
            answer = self._client.batch_get_item(RequestItems=asked)
            items |= {item[STATUS_KEY]["S"]: _texts(item) for item in answer["Responses"].get(self._status_table, [])}
            unread = answer["UnprocessedKeys"].get(self._status_table, {}).get("Keys")
        return items

    def newest_day(self) -> DayStatus | None:
        """Return the newest complete day, as of half a minute ago or less."""
        with self._lock, suppress(KeyError):
            return self._newest_day[None]
        pages = self._client.get_paginator("scan").paginate(TableName=self._status_table)
        items = (_texts(item) for page in pages for item in page["Items"])
        days = (_day_status(item) for item in items if item[STATUS_KEY] != CONTROL_KEY)
        complete = (day for day in days if day.complete)
        newest = max(complete, key=lambda day: day.date, default=None)
        with self._lock:
            self._newest_day[None] = newest
        return newest

    def day(self, view: str, date: str, limit: int, token: str | None, genre: str | None = None) -> Rows:
        """Return a page of a day's rows of a table, those of a genre only where one is given."""
        table = self._layout[view]
        names = {"#date": table["partition_key"]}
        values = {":date": {"S": date}}
        request: dict[str, Any] = {"KeyConditionExpression": "#date = :date", "ConsistentRead": True}
        if genre is not None:
            attribute = self._attribute(view, "track_genre")
            names["#genre"], values[":genre"] = attribute, {"S": genre}
            if attribute == table["sort_key"]:
                request["KeyConditionExpression"] += " AND #genre = :genre"
            else:
                request["FilterExpression"] = "#genre = :genre"
                names["#key"], values[":start"] = table["sort_key"], {"S": f"{genre}#"}
                request["KeyConditionExpression"] += " AND begins_with(#key, :start)"
        return self._page(view, request, names, values, limit, token)

    def genre_days(self, genre: str, first: str, last: str, limit: int, token: str | None) -> Rows:
        """Return a page of the days of a genre, by the index; eventually consistent, as indexes are."""
        table = self._layout["daily_genre"]
        index = table["indexes"][0]
        names = {"#genre": index["partition_key"], "#date": index["sort_key"]}
        values = {":genre": {"S": genre}, ":first": {"S": first}, ":last": {"S": last}}
        request = {
            "IndexName": index["name"],
            "KeyConditionExpression": "#genre = :genre AND #date BETWEEN :first AND :last",
        }
        return self._page("daily_genre", request, names, values, limit, token)

    def _page(
        self,
        view: str,
        request: Mapping[str, Any],
        names: dict[str, str],
        values: dict[str, dict[str, str]],
        limit: int,
        token: str | None,
    ) -> Rows:
        wanted = {name: values[f":{name}"]["S"] for name in ("date", "genre") if f":{name}" in values}
        start = {"ExclusiveStartKey": _read_token(token, {names[f"#{key}"]: value for key, value in wanted.items()})}
        try:
            answer = self._client.query(
                TableName=self._prefix + self._layout[view]["name"],
                ExpressionAttributeNames=names,
                ExpressionAttributeValues=values,
                Limit=limit,
                **request,
                **(start if token else {}),
            )
        except ClientError as error:
            if error_code(error) == "ValidationException" and token:
                raise _WRONG_TOKEN from error
            if error_code(error) == "ValidationException" and ":genre" in values:
                raise bad_request("the genre is longer than a key of DynamoDB") from error
            raise
        columns = {name: one["column"] for name, one in self._layout[view]["attributes"].items()}
        rows = [
            {columns[name]: _plain(value) for name, value in item.items() if name in columns}
            for item in answer["Items"]
        ]
        return Rows(rows, _token(answer["LastEvaluatedKey"]) if "LastEvaluatedKey" in answer else None)

    def _attribute(self, view: str, column: str) -> str:
        attributes: dict[str, dict[str, str]] = self._layout[view]["attributes"]
        return next(name for name, one in attributes.items() if one["column"] == column)


@lru_cache(maxsize=1)
def store() -> KpiStore:
    """Return the process's store, made with the first request."""
    return KpiStore()


def _texts(item: Item) -> dict[str, str]:
    """Return an item of plain attributes as texts."""
    return {name: next(iter(value.values())) for name, value in item.items()}


def _day_status(item: Mapping[str, str]) -> DayStatus:
    version = item.get("version")
    return DayStatus(
        item[STATUS_KEY],
        item["state"],
        None if version is None else int(version),
        item.get("run_id"),
        item.get("updated_at"),
        item.get("complete_through"),
    )


def _plain(value: Mapping[str, Any]) -> Any:
    """Return a value; a number as the text that DynamoDB has, which is exact."""
    ((kind, content),) = value.items()
    return [_plain(element) for element in content] if kind == "L" else content


def _token(key: Item) -> str:
    return base64.urlsafe_b64encode(json.dumps(key, separators=(",", ":")).encode()).decode().rstrip("=")


def _read_token(token: str | None, wanted: Mapping[str, str]) -> Any:
    """Return the key that a token stands for; it must be one of the same question."""
    if not token:
        return None
    try:
        key = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        fits = all(list(value) == ["S"] and isinstance(value["S"], str) for value in key.values())
        fits = fits and bool(key) and all(key[name]["S"] == value for name, value in wanted.items() if name in key)
    except (binascii.Error, ValueError, AttributeError, KeyError, TypeError):
        fits = False
    if not fits:
        raise _WRONG_TOKEN
    return key
