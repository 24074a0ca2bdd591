"""A proxy in front of an HTTP server of this machine, that can do something at a chosen request, or lose its reply.

with HttpProxy(url, before=lambda method, path: …) as proxy:   # then use proxy.url
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit

Before = Callable[[str, str], None]
Loses = Callable[[str, str, int], bool]
NOT_HANDED_ON = frozenset({"connection", "transfer-encoding"})


class HttpProxy:
    """Lives as long as the `with` block.

    `before` is called with method and path of each request. `loses` is asked with these and the reply's status: where
    it says so, the request was carried out, but the connection is closed without a reply.
    """

    def __init__(self, target: str, before: Before = lambda *_: None, loses: Loses = lambda *_: False) -> None:
        parts = urlsplit(target)
        self.target = (str(parts.hostname), parts.port or 80)
        self.before, self.loses = before, loses
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """What clients take as the endpoint."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler_of(proxy: HttpProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _forward(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            proxy.before(self.command, self.path)
            upstream = http.client.HTTPConnection(*proxy.target, timeout=60)
            headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
            upstream.request(self.command, self.path, content or None, headers)
            answer = upstream.getresponse()
            body = answer.read()
            upstream.close()
            if proxy.loses(self.command, self.path, answer.status):
                self.close_connection = True
                return
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in NOT_HANDED_ON and not (name.lower() == "content-length" and body):
                    self.send_header(name, value)
            if body:
                self.send_header("Content-Length", str(len(body)))
            elif answer.getheader("Content-Length") is None:
                self.send_header("Content-Length", "0")
            self.end_headers()
            self.wfile.write(body)

        do_DELETE = _forward  # noqa: N815 (the base class asks for such names)
        do_GET = _forward  # noqa: N815
        do_HEAD = _forward  # noqa: N815
        do_POST = _forward  # noqa: N815
        do_PUT = _forward  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
