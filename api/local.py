"""The same routes on this machine, for an ASGI server: `uvicorn api.local:app`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aws_lambda_powertools.event_handler import HttpResolverLocal

from api.routes import build

AT_ONCE = 16  # requests
THREADS_OF_ONE = 4

resolver = build(HttpResolverLocal(enable_validation=True))
_waiting = asyncio.Semaphore(AT_ONCE)
_threads = ThreadPoolExecutor(AT_ONCE * THREADS_OF_ONE)


async def app(scope: MutableMapping[str, Any], receive: Callable[..., Any], send: Callable[..., Any]) -> None:
    """Answer one request.

    Powertools holds a thread of the loop's pool for each middleware of a request. With as few as the pool has on a
    small machine, some requests at once would wait for each other's threads for ever.
    """
    if scope["type"] != "http":
        await resolver(scope, receive, send)
        return
    asyncio.get_running_loop().set_default_executor(_threads)
    async with _waiting:
        await resolver(scope, receive, send)
