"""The Lambda function behind an HTTP API (payload 2.0): handler `api.handler.handler`."""

from __future__ import annotations

from typing import Any

from aws_lambda_powertools.event_handler import APIGatewayHttpResolver

from api.routes import build

app = build(APIGatewayHttpResolver(enable_validation=True))


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer one request."""
    return app.resolve(event, context)
