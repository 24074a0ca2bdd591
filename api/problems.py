"""Errors of the API as `application/problem+json` (RFC 9457)."""

from __future__ import annotations

import json
from http import HTTPStatus

from aws_lambda_powertools.event_handler import Response

CONTENT_TYPE = "application/problem+json"


class ProblemError(Exception):
    """An answer that is an error: `kind` names its type for programs."""

    def __init__(self, status: int, kind: str, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.headers = headers or {}

    def response(self) -> Response[str]:
        """Return the answer."""
        title = self.kind.replace("-", " ").capitalize()
        body = {"type": f"/problems/{self.kind}", "title": title, "status": self.status, "detail": str(self)}
        headers = {"Cache-Control": "no-store", **self.headers}
        return Response(self.status, CONTENT_TYPE, json.dumps(body, ensure_ascii=False), headers=headers)


def bad_request(detail: str) -> ProblemError:
    """The caller's mistake."""
    return ProblemError(HTTPStatus.BAD_REQUEST, "bad-request", detail)


def not_computed_yet(day: object) -> ProblemError:
    """A day that may still come."""
    detail = f"{day} is not computed yet"
    return ProblemError(HTTPStatus.NOT_FOUND, "not-computed-yet", detail, {"Retry-After": "300"})


def no_such(what: str, detail: str) -> ProblemError:
    """Something that is not there and is not to be expected."""
    return ProblemError(HTTPStatus.NOT_FOUND, f"no-such-{what}", detail)
