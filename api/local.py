"""The same routes on this machine, for an ASGI server: `uvicorn api.local:app`."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

from aws_lambda_powertools.event_handler import HttpResolverLocal

from api.routes import build


class ThreadedResolver(HttpResolverLocal):
    """Answers each request in a thread, by the same code as the Lambda function.

    Powertools itself calls routes in the event loop, where each request would wait for what others read of DynamoDB.
    The request is in a context variable, which goes along to the thread.
    """

    async def _resolve_async(self) -> dict[str, Any]:  # type: ignore[override]
        return await asyncio.to_thread(lambda: self._resolve().build(self.current_event, self._cors))

    def build_routes(self) -> None:
        """Build what Powertools builds with the first request of a route, which two threads may have at once."""
        for route in (*self._static_routes, *self._dynamic_routes):
            route._build_middleware_stack(self._router_middlewares, self)  # noqa: SLF001


app = build(ThreadedResolver(enable_validation=True))
app.build_routes()
gc.freeze()  # what was imported stays: the collector need not look through it, for tens of ms, amid requests
