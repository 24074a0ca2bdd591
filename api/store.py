"""The KPI tables in DynamoDB, read-only, in the layout of `conf/dynamodb`: days with their status, page by page."""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Mapping, Sequence
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
CONTROL_KEY = "#control"  # the item in the table of statuses that is no day
STATUS_FRESH_S = 5.0
DAYS_FRESH_S = 30.0
MOST_STATUSES = 10_000  # kept in memory
MOST_GENRE_PAGES = 1000
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


@dataclass(frozen=True)
class RowsOfDays(Rows):
    """A page of rows of several days, and the statuses that these had just after it was read."""

    statuses: Mapping[str, DayStatus | None]


class KpiStore:
    """Reads days. A status that was read less than five seconds ago counts as read before the rows."""

    def __init__(self) -> None:
        names = load_toml("dynamodb/operations.toml")["tables"]
        self._prefix = os.environ.get("MUSIC_KPIS_DYNAMODB_PREFIX", names["prefix"])
        self._status_table = self._prefix + os.environ.get("MUSIC_KPIS_DYNAMODB_STATUS", names["status"])
        self._layout = load_toml("dynamodb/kpi_tables.toml")["tables"]
        self._client = new_client("dynamodb", config=client_config(connections=CONNECTIONS, attempts=3, read_timeout=5))
        self._lock = Lock()  # of what is kept
        self._statuses: TTLCache[str, DayStatus | None] = TTLCache(MOST_STATUSES, STATUS_FRESH_S)
        self._newest_day: TTLCache[None, DayStatus | None] = TTLCache(1, DAYS_FRESH_S)
        self._genre_days: TTLCache[Any, RowsOfDays] = TTLCache(MOST_GENRE_PAGES, DAYS_FRESH_S)

    def status(self, date: str, *, fresh: bool = False) -> DayStatus | None:
        """Return a day's status, at most five seconds old; `fresh`: as it is now."""
        return self.statuses([date], fresh=fresh)[date]

    def statuses(self, dates: Sequence[str], *, fresh: bool = False) -> dict[str, DayStatus | None]:
        """Return the statuses of up to 100 days, at most five seconds old; `fresh`: as they are now."""
        found: dict[str, DayStatus | None] = {}
        with self._lock:
            for date in () if fresh else dates:
                with suppress(KeyError):
                    found[date] = self._statuses[date]
        keys = [{STATUS_KEY: {"S": date}} for date in dates if date not in found]
        while keys:
            asked = {self._status_table: {"Keys": keys, "ConsistentRead": True}}
            answer = self._client.batch_get_item(RequestItems=asked)
            read = {status.date: status for status in map(_day_status, answer["Responses"].get(self._status_table, []))}
            unread = answer["UnprocessedKeys"].get(self._status_table, {}).get("Keys", [])
            found |= {key[STATUS_KEY]["S"]: read.get(key[STATUS_KEY]["S"]) for key in keys if key not in unread}
            keys = unread
        with self._lock:
            self._statuses.update(found)
        return found

    def newest_day(self) -> DayStatus | None:
        """Return the newest complete day, as of half a minute ago or less."""
        with self._lock, suppress(KeyError):
            return self._newest_day[None]
        pages = self._client.get_paginator("scan").paginate(TableName=self._status_table)
        items = (item for page in pages for item in page["Items"] if item[STATUS_KEY]["S"] != CONTROL_KEY)
        days = (status for status in map(_day_status, items) if status.complete)
        newest = max(days, key=lambda status: status.date, default=None)
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

    def genre_days(self, genre: str, first: str, last: str, limit: int, token: str | None) -> RowsOfDays:
        """Return a page of the days of a genre, by the index; eventually consistent, as indexes are.

        One that was read less than half a minute ago is returned again while none of its days is written.
        """
        question = (genre, first, last, limit, token)
        kept = None
        with self._lock, suppress(KeyError):
            kept = self._genre_days[question]
        if kept is not None and self.statuses(list(kept.statuses)) == kept.statuses:
            return kept
        table = self._layout["daily_genre"]
        index = table["indexes"][0]
        names = {"#genre": index["partition_key"], "#date": index["sort_key"]}
        values = {":genre": {"S": genre}, ":first": {"S": first}, ":last": {"S": last}}
        request = {
            "IndexName": index["name"],
            "KeyConditionExpression": "#genre = :genre AND #date BETWEEN :first AND :last",
        }
        page = self._page("daily_genre", request, names, values, limit, token)
        days = RowsOfDays(page.rows, page.next, self.statuses([row["listen_date"] for row in page.rows], fresh=True))
        with self._lock:
            self._genre_days[question] = days
        return days

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


def _day_status(item: Item) -> DayStatus:
    texts = {name: next(iter(value.values())) for name, value in item.items()}
    version = texts.get("version")
    return DayStatus(
        texts[STATUS_KEY],
        texts["state"],
        None if version is None else int(version),
        texts.get("run_id"),
        texts.get("updated_at"),
        texts.get("complete_through"),
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
