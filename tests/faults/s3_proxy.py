"""A proxy in front of an S3 server that loses replies: the request is carried out, then the connection is closed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from urllib.parse import unquote

from tests.support.http_proxy import HttpProxy

WRITES = frozenset({"PUT", "POST", "DELETE"})


class LossyS3(HttpProxy):
    """Lives as long as the `with` block; loses the reply to the first request of each kind that `lose` names."""

    def __init__(self, target: str, lose: Callable[[str, str], bool] = lambda method, _: method in WRITES) -> None:
        super().__init__(target, loses=self._loses)
        self.lost: list[str] = []
        self._lose = lose
        self._lock = threading.Lock()

    def _loses(self, method: str, path: str, status: int) -> bool:
        """Whether this reply is lost; a second try of the same request gets its reply."""
        request = f"{method} {unquote(path)}"
        with self._lock:
            if status >= 300 or request in self.lost or not self._lose(method, path):
                return False
            self.lost.append(request)
            return True
