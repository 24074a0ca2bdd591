"""A server that speaks DynamoDB's protocol for BatchWriteItem and Query, as slow and as scarce as wanted.

It keeps the items in memory and counts what comes. Answers take `delay` seconds; with a capacity, a token bucket meters
the items written, and what is over it is handed back as unprocessed. Whatever concerns other tables or other
operations goes to `upstream`, a DynamoDB Local. It is a process of its own and cheap, so that clients can be measured.

    with DynamoDBStub({"DailyGenreKPIs": ("date", "genre")}, delay=0.01) as stub:   # then use stub.url
        ...
        assert stub.counts()["puts"] == 100_000
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from tools.toolchain import ROOT

JSON_TYPE = "application/x-amz-json-1.0"
MAX_BATCH_ITEMS = 25
START_TIMEOUT_S = 30
Answer = tuple[int, Any]


class DynamoDBStub:
    """The server as a process of its own; lives as long as the `with` block and no longer than this process."""

    def __init__(
        self,
        tables: Mapping[str, Sequence[str]],
        *,
        delay: float = 0,
        capacity: float = 0,
        burst: float | None = None,
        upstream: str | None = None,
    ) -> None:
        """Describe the server.

        Args:
            tables: names of the tables that it keeps, each with its key attributes.
            delay: seconds that each BatchWriteItem and Query takes.
            capacity: items taken a second; 0 = as many as come.
            burst: items taken at once when nothing was written for long; default: those of one second.
            upstream: URL of the DynamoDB that has all other tables.
        """
        self._command = [sys.executable, "-m", "tests.support.dynamodb_stub", json.dumps(dict(tables))]
        self._command += ["--delay", str(delay), "--capacity", str(capacity)]
        self._command += ["--burst", str(capacity if burst is None else burst)]
        self._command += [] if upstream is None else ["--upstream", upstream]
        self._process: subprocess.Popen[str] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """What clients take as the endpoint."""
        return f"http://127.0.0.1:{self.port}"

    def counts(self) -> dict[str, Any]:
        """Return what came.

        Returns:
            Numbers of `requests` by operation, of items in `puts`, `deletes` and `unprocessed`, of requests `refused`
            as a whole; and `seconds`: how many BatchWriteItem came in each second since the first one.
        """
        return dict(self._ask("Counts", {}))

    def forget(self) -> None:
        """Count from here; the items stay."""
        self._ask("Forget", {})

    def set_capacity(self, items_a_second: float) -> None:
        """Change the capacity; a negative one takes nothing at all."""
        self._ask("Capacity", {"items_a_second": items_a_second})

    def items(self, table: str) -> list[dict[str, Any]]:
        """Return all items of a table."""
        return list(self._ask("Items", {"table": table}))

    def _ask(self, operation: str, body: Any) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("POST", "/", json.dumps(body), {"X-Amz-Target": f"Stub.{operation}"})
        answer = json.loads(connection.getresponse().read())
        connection.close()
        return answer

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.communicate()


# --- the server's process ---


class Store:
    """The items, the token bucket and the counts."""

    def __init__(self, tables: Mapping[str, Sequence[str]], capacity: float, burst: float) -> None:
        self.tables = tables
        self.capacity, self._burst = capacity, burst
        self._left, self._at = burst, time.monotonic()
        self._items: dict[str, dict[str, dict[str, Any]]] = {name: defaultdict(dict) for name in tables}
        self.forget()

    def forget(self) -> None:
        self.counts: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.seconds: Counter[int] = Counter()
        self._first: float | None = None

    def told(self) -> dict[str, Any]:
        """Return all counts."""
        last = max(self.seconds, default=-1)
        names = ("puts", "deletes", "unprocessed", "refused")
        return {
            **{name: self.counts[name] for name in names},
            "requests": dict(self.requests),
            "seconds": [self.seconds[second] for second in range(last + 1)],
        }

    def write(self, request: dict[str, Any]) -> Answer:
        """Carry out a BatchWriteItem as far as the capacity goes."""
        now = time.monotonic()
        self._first = now if self._first is None else self._first
        self.seconds[int(now - self._first)] += 1
        entries = [(table, entry) for table, some in request["RequestItems"].items() for entry in some]
        problem = self._problem(entries)
        if problem:
            return 400, {"__type": "com.amazon.coral.validate#ValidationException", "message": problem}
        taken = self._take(len(entries), now)
        if taken == 0:
            self.counts["refused"] += 1
            name = "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException"
            return 400, {"__type": name, "message": "The level of configured provisioned throughput was exceeded."}
        for table, entry in entries[:taken]:
            self._apply(table, entry)
        left: dict[str, list[Any]] = {}
        for table, entry in entries[taken:]:
            left.setdefault(table, []).append(entry)
        self.counts["unprocessed"] += len(entries) - taken
        return 200, {"UnprocessedItems": left}

    def query(self, request: dict[str, Any]) -> Answer:
        """Return all items of a partition."""
        (value,) = request["ExpressionAttributeValues"].values()
        items = list(self._items[request["TableName"]].get(value["S"], {}).values())
        return 200, {"Items": items, "Count": len(items), "ScannedCount": len(items)}

    def all_items(self, table: str) -> list[Any]:
        return [item for partition in self._items[table].values() for item in partition.values()]

    def _problem(self, entries: list[tuple[str, dict[str, Any]]]) -> str | None:
        if not 1 <= len(entries) <= MAX_BATCH_ITEMS:
            return f"{len(entries)} items in a batch"
        places = {(table, *self._place(table, entry)) for table, entry in entries}
        return None if len(places) == len(entries) else "Provided list of item keys contains duplicates"

    def _take(self, wanted: int, now: float) -> int:
        if self.capacity == 0:
            return wanted
        if self.capacity > 0:
            self._left = min(self._burst, self._left + (now - self._at) * self.capacity)
        self._at = now
        taken = min(wanted, int(self._left)) if self.capacity > 0 else 0
        self._left -= taken
        return taken

    def _place(self, table: str, entry: dict[str, Any]) -> tuple[str, str]:
        item = entry["PutRequest"]["Item"] if "PutRequest" in entry else entry["DeleteRequest"]["Key"]
        partition, *rest = (next(iter(item[name].values())) for name in self.tables[table])
        return partition, "".join(rest)

    def _apply(self, table: str, entry: dict[str, Any]) -> None:
        partition, sort = self._place(table, entry)
        if "PutRequest" in entry:
            self.counts["puts"] += 1
            self._items[table][partition][sort] = entry["PutRequest"]["Item"]
        else:
            self.counts["deletes"] += 1
            self._items[table][partition].pop(sort, None)


class Connection(asyncio.Protocol):
    """One client's connection: requests come one after another."""

    def __init__(self, store: Store, delay: float, upstream: str | None) -> None:
        self._store, self._delay, self._upstream = store, delay, upstream
        self._transport: asyncio.Transport
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._received[:end])
        headers = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
        headers = {name.lower(): value for name, value in headers.items()}
        size = int(headers.get(b"content-length", b"0"))
        if len(self._received) < end + 4 + size:
            return
        body = bytes(self._received[end + 4 : end + 4 + size])
        del self._received[: end + 4 + size]
        self._handle(headers, body)

    def _handle(self, headers: dict[bytes, bytes], body: bytes) -> None:
        operation = headers.get(b"x-amz-target", b"").rpartition(b".")[2].decode()
        request = json.loads(body or b"{}")
        answer = self._own(operation, request)
        if answer is None:
            self._store.requests[operation] += 1
            asyncio.get_running_loop().create_task(self._forward(headers, body))
        elif operation in ("BatchWriteItem", "Query"):
            self._store.requests[operation] += 1
            # Above all, answers come when they should: at most a fraction of a millisecond late.
            asyncio.get_running_loop().call_later(self._delay, self._answer, *answer)
        else:
            self._answer(*answer)

    def _own(self, operation: str, request: Any) -> Answer | None:
        """Return the answer to what this server does by itself, else None."""
        store = self._store
        if operation == "BatchWriteItem" and request["RequestItems"].keys() <= store.tables.keys():
            return store.write(request)
        if operation == "Query" and request["TableName"] in store.tables:
            return store.query(request)
        if operation == "Counts":
            return 200, store.told()
        if operation == "Items":
            return 200, store.all_items(request["table"])
        if operation == "Capacity":
            store.capacity = request["items_a_second"]
            return 200, {}
        if operation == "Forget":
            store.forget()
            return 200, {}
        return None

    async def _forward(self, headers: dict[bytes, bytes], body: bytes) -> None:
        status, content = await asyncio.to_thread(_ask_upstream, self._upstream, headers, body)
        self._answer(status, content)

    def _answer(self, status: int, content: Any) -> None:
        text = content if isinstance(content, bytes) else json.dumps(content, separators=(",", ":")).encode()
        head = f"HTTP/1.1 {status} {http.client.responses[status]}\r\nContent-Type: {JSON_TYPE}\r\n"
        self._transport.write(f"{head}Content-Length: {len(text)}\r\n\r\n".encode() + text)


def _ask_upstream(upstream: str | None, headers: dict[bytes, bytes], body: bytes) -> Answer:
    if upstream is None:
        return 400, {"__type": "#UnknownOperationException", "message": "nobody here does that"}
    parts = urlsplit(upstream)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    handed_on = {name.decode(): value.decode() for name, value in headers.items() if name != b"content-length"}
    connection.request("POST", "/", body, handed_on)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content


async def serve(options: argparse.Namespace) -> None:
    """Serve until standard input ends; the port is printed first."""
    store = Store(json.loads(options.tables), options.capacity, options.burst)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Connection(store, options.delay, options.upstream), "127.0.0.1", 0, backlog=512
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()


def main(arguments: Sequence[str]) -> int:
    """Run the server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", help='such as {"DailyGenreKPIs": ["date", "genre"]}')
    parser.add_argument("--delay", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--capacity", type=float, default=0.0, metavar="ITEMS_A_SECOND")
    parser.add_argument("--burst", type=float, default=0.0, metavar="ITEMS")
    parser.add_argument("--upstream", metavar="URL")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(parser.parse_args(arguments)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
