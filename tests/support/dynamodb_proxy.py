"""A proxy in front of a DynamoDB server that makes faults from outside, one decision a request.

def decide(request: Request) -> Fault:
    return THROTTLE if request.operation == "BatchWriteItem" and request.number < 3 else PASS

with FaultyDynamoDB(server.url, decide) as proxy:   # then use proxy.url as the endpoint
    ...
    assert proxy.count("BatchWriteItem") == 7
"""

import http.client
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

JSON_TYPE = "application/x-amz-json-1.0"
LONGEST_HOLD_S = 60


@dataclass(frozen=True)
class Request:
    """A request as it came in; `number` counts from 0 within its operation, `total` over all."""

    operation: str
    body: dict[str, Any]
    number: int
    total: int

    @property
    def writes(self) -> list[tuple[str, dict[str, Any]]]:
        """The entries of a BatchWriteItem, each with its table."""
        return [(table, entry) for table, entries in self.body.get("RequestItems", {}).items() for entry in entries]


@dataclass(frozen=True)
class Fault:
    """What happens to a request; the parts can be combined.

    `delay` seconds pass, then `hold` must be set, then the request is sent on or not, then the answer given or dropped.
    """

    delay: float = 0
    hold: threading.Event | None = None
    error: tuple[int, str] | None = None  # HTTP status and DynamoDB's name; the request is not sent on
    unprocessed: int = 0  # so many entries of a BatchWriteItem are kept back and returned as unprocessed
    drop_request: bool = False  # the connection is closed before the request is sent on
    drop_reply: bool = False  # the connection is closed after the request was carried out
    then: Callable[[], object] | None = None  # called when the request was carried out, before the answer


PASS = Fault()
THROTTLE = Fault(error=(400, "ProvisionedThroughputExceededException"))
SERVER_ERROR = Fault(error=(500, "InternalServerError"))
DROP_REQUEST = Fault(drop_request=True)
DROP_REPLY = Fault(drop_reply=True)
Decide = Callable[[Request], Fault]


@dataclass
class TokenBucket:
    """Meters items written a second; what is over it is handed back as unprocessed, as DynamoDB does."""

    items_a_second: float
    burst: float
    _left: float = field(init=False)
    _at: float = field(init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._left, self._at = self.burst, time.monotonic()

    def __call__(self, request: Request) -> Fault:
        """Decide on a request: all of it refused when nothing is left."""
        if request.operation != "BatchWriteItem":
            return PASS
        with self._lock:
            now = time.monotonic()
            self._left = min(self.burst, self._left + (now - self._at) * self.items_a_second)
            self._at = now
            wanted = len(request.writes)
            taken = min(wanted, int(self._left))
            self._left -= taken
        return THROTTLE if taken == 0 else Fault(unprocessed=wanted - taken)


class FaultyDynamoDB:
    """The proxy; lives as long as the `with` block and keeps every request in `requests`."""

    def __init__(self, target: str, decide: Decide = lambda _: PASS) -> None:
        parts = urlsplit(target)
        assert parts.hostname is not None
        assert parts.port is not None
        self.target = (parts.hostname, parts.port)
        self.decide = decide
        self.requests: list[Request] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """What clients take as the endpoint."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def of(self, operation: str) -> list[Request]:
        """Return the requests of one operation."""
        return [request for request in self.requests if request.operation == operation]

    def count(self, operation: str) -> int:
        """Return how many requests of one operation came."""
        return len(self.of(operation))

    def forget(self) -> None:
        """Count from here."""
        with self._lock:
            self.requests.clear()

    def note(self, operation: str, body: dict[str, Any]) -> Request:
        """Number a request and keep it."""
        with self._lock:
            request = Request(operation, body, self.count(operation), len(self.requests))
            self.requests.append(request)
            return request

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler_of(proxy: FaultyDynamoDB) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            self.upstream = http.client.HTTPConnection(*proxy.target, timeout=LONGEST_HOLD_S)

        def finish(self) -> None:
            self.upstream.close()
            super().finish()

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            operation = self.headers.get("X-Amz-Target", "").rpartition(".")[2]
            request = proxy.note(operation, json.loads(content))
            fault = proxy.decide(request)
            time.sleep(fault.delay)
            if fault.hold is not None:
                fault.hold.wait(LONGEST_HOLD_S)
            if fault.drop_request:
                self.close_connection = True
            elif fault.error is not None:
                status, name = fault.error
                self._answer(status, json.dumps({"__type": f"com.amazonaws.dynamodb#{name}", "message": name}).encode())
            elif fault.unprocessed:
                self._answer_unprocessed(request, fault)
            else:
                status, answer = self._forward(content)
                if fault.then is not None:
                    fault.then()
                self._answer(status, answer, drop=fault.drop_reply)

        def _answer_unprocessed(self, request: Request, fault: Fault) -> None:
            keep = len(request.writes) - fault.unprocessed
            taken, left = _by_table(request.writes[:keep]), _by_table(request.writes[keep:])
            status, answer = 200, b'{"UnprocessedItems":{}}'
            if taken:
                status, answer = self._forward(json.dumps({**request.body, "RequestItems": taken}).encode())
            if status == 200:
                answer = json.dumps({"UnprocessedItems": left}).encode()
            self._answer(status, answer, drop=fault.drop_reply)

        def _forward(self, content: bytes) -> tuple[int, bytes]:
            headers = {name: value for name, value in self.headers.items() if name.lower() != "content-length"}
            self.upstream.request("POST", self.path, content, headers)
            answer = self.upstream.getresponse()
            return answer.status, answer.read()

        def _answer(self, status: int, content: bytes, *, drop: bool = False) -> None:
            if drop:
                self.close_connection = True
                return
            self.send_response(status)
            self.send_header("Content-Type", JSON_TYPE)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class names it so)
            pass

    return Handler


def _by_table(writes: list[tuple[str, dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    tables: dict[str, list[dict[str, Any]]] = {}
    for table, entry in writes:
        tables.setdefault(table, []).append(entry)
    return tables
