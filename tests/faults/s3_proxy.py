"""A proxy in front of an S3 server that loses replies: the request is carried out, then the connection is closed."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import unquote, urlsplit

NOT_HANDED_ON = frozenset({"connection", "transfer-encoding", "content-length"})
WRITES = frozenset({"PUT", "POST", "DELETE"})


class LossyS3:
    """Lives as long as the `with` block; loses the reply to the first request of each kind that `lose` names."""

    def __init__(self, target: str, lose: Callable[[str, str], bool] = lambda method, _: method in WRITES) -> None:
        parts = urlsplit(target)
        self.target = (str(parts.hostname), parts.port or 80)
        self.lost: list[str] = []
        self._lose = lose
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """What clients take as the endpoint."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def loses(self, method: str, path: str) -> bool:
        """Whether this reply is lost; a second try of the same request gets its reply."""
        request = f"{method} {unquote(path)}"
        with self._lock:
            if request in self.lost or not self._lose(method, path):
                return False
            self.lost.append(request)
            return True

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler_of(proxy: LossyS3) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _forward(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
            upstream = http.client.HTTPConnection(*proxy.target, timeout=60)
            upstream.request(self.command, self.path, content, headers)
            answer = upstream.getresponse()
            body = answer.read()
            upstream.close()
            if answer.status < 300 and proxy.loses(self.command, self.path):
                self.close_connection = True
                return
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in NOT_HANDED_ON:
                    self.send_header(name, value)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else None
            self.send_header("Content-Length", length or str(len(body)))
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
