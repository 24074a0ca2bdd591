"""One logger set-up: a JSON object a line for machines, a readable line on a terminal."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Literal

LogFormat = Literal["json", "text", "auto"]

_logger = logging.getLogger("spark_app")
_context: dict[str, Any] = {}


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **_context,
            **getattr(record, "fields", {}),
        }
        return json.dumps(entry, ensure_ascii=False, default=str)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f"  {key}={value}" for key, value in getattr(record, "fields", {}).items())
        mark = "" if record.levelno < logging.WARNING else f"{record.levelname}: "
        clock = datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%H:%M:%S")
        return printable(f"{clock}  {mark}{record.getMessage()}{fields}")


def printable(text: str) -> str:
    """Return a text that does nothing to a terminal: names of files may hold any character."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def set_up_logging(log_format: LogFormat = "auto") -> None:
    """Log to standard error; `auto` is text on a terminal and JSON elsewhere."""
    if log_format == "auto":
        log_format = "text" if sys.stderr.isatty() else "json"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_TextFormatter() if log_format == "text" else _JsonFormatter())
    _logger.handlers[:] = [handler]
    _logger.setLevel(logging.INFO)
    _logger.propagate = False


def set_log_context(**fields: Any) -> None:
    """Add fields, such as the run id, to each JSON line from here on."""
    _context.update(fields)


def log(message: str, **fields: Any) -> None:
    """Log one event with its counts."""
    _logger.info(message, extra={"fields": fields})


def warn(message: str, **fields: Any) -> None:
    """Log something that a person should look at."""
    _logger.warning(message, extra={"fields": fields})


class Steps:
    """Times the steps of a run, one after another; with a `meter`, they also tell the work that it reads."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.work: dict[str, Counter[str]] = {}
        self.meter: Callable[[], Mapping[str, float]] | None = None

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Log the start and end of a step and keep its seconds; a step that comes twice adds up."""
        log(f"{name} …", step=name)
        started = time.monotonic()
        try:
            yield
        finally:
            spent = time.monotonic() - started
            self.seconds[name] = round(self.seconds.get(name, 0.0) + spent, 3)
        if self.meter is not None:
            self.work.setdefault(name, Counter()).update(self.meter())
        log(f"{name} done", step=name, seconds=round(spent, 2))

    def as_json(self) -> list[dict[str, Any]]:
        """Return each step with its seconds and what else is known of it."""
        return [{"name": name, "seconds": spent, **self._work_of(name)} for name, spent in self.seconds.items()]

    def _work_of(self, name: str) -> dict[str, float]:
        work: Mapping[str, float] = self.work.get(name, {})
        return {what: round(amount, 3) if what.endswith("seconds") else int(amount) for what, amount in work.items()}
