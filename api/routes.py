"""The routes of the API, which an app of any kind (Lambda, a server on this machine) gets by `build`."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Hashable
from contextlib import suppress
from datetime import UTC, date, datetime
from http import HTTPStatus
from threading import Lock
from typing import Annotated, Any, TypeVar

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.api_gateway import ApiGatewayResolver, Router
from aws_lambda_powertools.event_handler.exceptions import NotFoundError
from aws_lambda_powertools.event_handler.openapi.exceptions import RequestValidationError
from aws_lambda_powertools.event_handler.openapi.params import Header, Path, Query
from botocore.exceptions import BotoCoreError, ClientError
from cachetools import LRUCache, TTLCache, cached
from pydantic import BaseModel, BeforeValidator

from api.models import Countries, DailyGenres, GenreDays, Health, Hours, Problem, Songs
from api.problems import CONTENT_TYPE, ProblemError, bad_request, no_such, not_computed_yet
from api.store import FRESH_S, DayStatus, Rows, store

VERSION = "1.0.0"
TITLE = "Music streaming KPIs"
DESCRIPTION = (
    "Daily and hourly figures of a music streaming service. Whole numbers are JSON numbers; decimals are strings with "
    "the exact value. Answers of complete days have an ETag and may be cached; a late file can still change a day."
)
CACHE = "private, max-age=60"
JSON = "application/json"
MOST_DAYS = 100
KEPT_BYTES = 50_000_000  # of pages of complete days, in memory
Page = TypeVar("Page", bound=BaseModel)
App = TypeVar("App", bound=ApiGatewayResolver)


def _iso(value: Any) -> Any:
    """Refuse what pydantic takes for a date too, such as seconds since 1970."""
    if isinstance(value, str) and not re.fullmatch(r"\d{4}-\d{2}-\d{2}", value, re.ASCII):
        raise ValueError("a date is written like 2024-06-28")
    return value


Iso = BeforeValidator(_iso)
Day = Annotated[date, Iso, Path(description="A day of the KPI time zone, such as 2024-06-28")]
Genre = Annotated[str, Path(min_length=1, max_length=1000)]
Limit = Annotated[int, Query(ge=1, le=500, description="Items of a page, at most")]
Next = Annotated[str | None, Query(alias="next", max_length=8000, description="Token of a page, from the page before")]
IfNoneMatch = Annotated[str | None, Header(alias="If-None-Match", description="ETag of an answer that one has")]

_PROBLEM = {"content": {CONTENT_TYPE: {"model": Problem}}}
PROBLEMS: Any = {
    HTTPStatus.OK: {"description": "The figures"},
    HTTPStatus.NOT_MODIFIED: {"description": "The answer is the one that one has"},
    HTTPStatus.BAD_REQUEST: {"description": "A wrong parameter", **_PROBLEM},
    HTTPStatus.NOT_FOUND: {"description": "Not computed yet (Retry-After), or no such day, genre or path", **_PROBLEM},
    HTTPStatus.SERVICE_UNAVAILABLE: {"description": "DynamoDB can't be read now", **_PROBLEM},
}
router = Router()  # type: ignore[no-untyped-call]


@router.get("/v1/kpis/daily/<day>", summary="All genres of a day", responses=PROBLEMS)
def daily(day: Day, limit: Limit = 100, token: Next = None, if_none_match: IfNoneMatch = None) -> Response[DailyGenres]:
    """Rows by genre."""
    return _day_page(DailyGenres, "daily_genre", day, limit, token, if_none_match)


@router.get("/v1/kpis/daily/<day>/<genre>", summary="A genre on a day", responses=PROBLEMS)
def daily_of_genre(day: Day, genre: Genre, if_none_match: IfNoneMatch = None) -> Response[DailyGenres]:
    """One item."""
    return _day_page(DailyGenres, "daily_genre", day, 1, None, if_none_match, genre)


@router.get("/v1/genres/<genre>", summary="Days of a genre", responses=PROBLEMS)
def genre_days(
    genre: Genre,
    first: Annotated[date, Iso, Query(alias="from", description="First day")] = date(1, 1, 1),
    last: Annotated[date, Iso, Query(alias="to", description="Last day")] = date(9999, 12, 31),
    limit: Annotated[int, Query(ge=1, le=MOST_DAYS, description="Days of a page, at most")] = MOST_DAYS,
    token: Next = None,
    if_none_match: IfNoneMatch = None,
) -> Response[GenreDays]:
    """Days in order; an empty list where the genre was not played."""
    if first > last:
        raise bad_request(f"`from` ({first}) is later than `to` ({last})")
    question = (genre, first.isoformat(), last.isoformat(), limit, token)
    complete, text = _genre_page(store().last_delivery(), *question)
    if not complete:
        return _answer(GenreDays.model_validate_json(text))
    etag = _etag(text)
    raise _Answer(None if _matches(if_none_match, etag) else text, etag)


@router.get("/v1/kpis/hourly/<day>", summary="The hours of a day", responses=PROBLEMS)
def hourly(day: Day, limit: Limit = 100, token: Next = None, if_none_match: IfNoneMatch = None) -> Response[Hours]:
    """Rows by hour; a day has 23 to 25."""
    return _day_page(Hours, "hourly", day, limit, token, if_none_match)


@router.get(
    "/v1/top-songs/<day>/<genre>",
    summary="Top songs of a genre",
    responses=PROBLEMS,
)
def top_songs(day: Day, genre: Genre, if_none_match: IfNoneMatch = None) -> Response[Songs]:
    """Up to three, by rank."""
    return _day_page(Songs, "top_songs", day, 100, None, if_none_match, genre)


@router.get("/v1/countries/<day>", summary="The countries of a day", responses=PROBLEMS)
def countries(
    day: Day, limit: Limit = 100, token: Next = None, if_none_match: IfNoneMatch = None
) -> Response[Countries]:
    """Rows by country."""
    return _day_page(Countries, "daily_country", day, limit, token, if_none_match)


@router.get("/health", summary="How fresh the figures are", responses={200: PROBLEMS[200], 503: PROBLEMS[503]})
def health() -> Response[Health]:
    """The newest complete day."""
    newest = store().newest_day()
    if newest is None:
        return _answer(Health(status="empty"))
    age = None
    if newest.updated_at is not None:
        updated_at = datetime.fromisoformat(newest.updated_at)
        age = max(0, int((datetime.now(UTC) - updated_at).total_seconds()))
    fields = {"newest_day": newest.date, "run_id": newest.run_id, "updated_at": newest.updated_at}
    return _answer(
        Health.model_validate(
            {"status": "ok", "age_seconds": age, "complete_through": newest.complete_through, **fields}
        )
    )


class _Answer(Exception):
    """An answer whose body is JSON already, or that has none.

    Raised, as Powertools would check and write a returned one once more, by the model that it was made with.
    """

    def __init__(self, body: str | None, etag: str) -> None:
        super().__init__(etag)
        self.body = body
        self.etag = etag

    def response(self) -> Response[str]:
        headers = {"Cache-Control": CACHE, "ETag": self.etag}
        if self.body is None:
            return Response(HTTPStatus.NOT_MODIFIED, headers=headers)
        return Response(HTTPStatus.OK, JSON, self.body, headers=headers)


class _DayChanged(Exception):
    """A day was written while it was read, or what was known of it is old."""


def build(app: App) -> App:
    """Give an app the routes, the errors and, at `/docs`, a page to try them."""
    app.include_router(router)
    app.enable_swagger(path="/docs", title=TITLE, version=VERSION, description=DESCRIPTION)
    app.exception_handler(_Answer)(_Answer.response)
    app.exception_handler(ProblemError)(ProblemError.response)
    app.exception_handler(RequestValidationError)(_wrong_parameter)
    app.exception_handler([ClientError, BotoCoreError])(_unavailable)
    app.exception_handler(Exception)(_unexpected)

    @app.not_found
    def not_found(error: NotFoundError) -> Response[str]:
        if app.current_event.http_method != "GET":
            allow = {"Allow": "GET"}
            return ProblemError(405, "method-not-allowed", "this API only reads: use GET", allow).response()
        return no_such("path", f"{app.current_event.path}: {error.msg}; see /docs").response()

    return app


def _day_page(
    model: type[Page],
    view: str,
    day: date,
    limit: int,
    token: str | None,
    if_none_match: str | None,
    genre: str | None = None,
) -> Response[Page]:
    """Return a page of a day that was the same before and after it was read."""
    name = day.isoformat()
    status = store().status(name)
    if status is not None and status.complete:
        etag = _etag(VERSION, view, str(status.version), name, genre or "", str(limit), token or "")
        if _matches(if_none_match, etag):
            raise _Answer(None, etag)
        with suppress(_DayChanged):
            raise _Answer(_complete_page(model, view, status, limit, token, genre), etag)
    before = store().status(name, fresh=True)
    page = store().day(view, name, limit, token, genre)
    status = store().status(name, fresh=True)
    if status is None or status.version is None:
        newest = store().newest_day()
        if status is not None or newest is None or name > newest.date:
            raise not_computed_yet(day)
        raise no_such("day", f"there are no listens on {day}")
    return _answer(_body(model, page, status, genre, complete=status.complete and status == before))


@cached(LRUCache(KEPT_BYTES, getsizeof=len), lock=Lock())
def _complete_page(
    model: type[Page], view: str, status: DayStatus, limit: int, token: str | None, genre: str | None
) -> str:
    """Return a page of a complete day as JSON. It is kept: once the day is written again, its status is another."""
    page = store().day(view, status.date, limit, token, genre)
    if store().status(status.date, fresh=True) != status:
        raise _DayChanged
    return _body(model, page, status, genre, complete=True).model_dump_json()


@cached(TTLCache(KEPT_BYTES, FRESH_S, getsizeof=lambda page: len(page[1])), lock=Lock())
def _genre_page(
    delivery: Hashable,  # noqa: ARG001 (a part of the key: kept for half a minute, as indexes lag, or till the next one)
    genre: str,
    first: str,
    last: str,
    limit: int,
    token: str | None,
) -> tuple[bool, str]:
    """Return whether all days of a page were complete just after it was read, and it as JSON."""
    page = store().genre_days(genre, first, last, limit, token)
    statuses = store().statuses([row["listen_date"] for row in page.rows], fresh=True)
    items = []
    for row in page.rows:
        status = statuses[row["listen_date"]]
        items.append({**row, "complete": bool(status and status.complete), "run_id": status and status.run_id})
    body = GenreDays.model_validate({"genre": genre, "items": items, "next": page.next})
    return all(item.complete for item in body.items), body.model_dump_json()


def _body(model: type[Page], page: Rows, status: DayStatus, genre: str | None, *, complete: bool) -> Page:
    if genre is not None and not page.rows:
        raise no_such("genre", f"no song of genre '{genre}' was played on {status.date}")
    fields = {"date": status.date, "complete": complete, "run_id": status.run_id, "updated_at": status.updated_at}
    return model.model_validate({**fields, "items": page.rows, "next": None if genre else page.next})


def _answer(body: Page) -> Response[Page]:
    """Return an answer that is not to be kept."""
    return Response(HTTPStatus.OK, JSON, body, headers={"Cache-Control": "no-store"})


def _etag(*parts: str) -> str:
    return f'"{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]}"'


def _matches(if_none_match: str | None, etag: str) -> bool:
    known = [one.strip().removeprefix("W/") for one in (if_none_match or "").split(",")]
    return etag in known or known == ["*"]


def _wrong_parameter(error: RequestValidationError) -> Response[str]:
    details = "; ".join(f"{one['loc'][-1]}: {one['msg']}" for one in error.errors())
    return bad_request(details).response()


def _unavailable(error: Exception) -> Response[str]:
    logging.getLogger(__name__).error("DynamoDB: %s", error)
    detail = "DynamoDB can't be read now; try again"
    return ProblemError(503, "unavailable", detail, {"Retry-After": "5"}).response()


def _unexpected(error: Exception) -> Response[str]:
    logging.getLogger(__name__).error("unexpected", exc_info=error)
    return ProblemError(500, "internal-error", "this should not happen; it is in the log").response()
