"""One logger set-up: a JSON object a line for machines, a readable line on a terminal."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal

LogFormat = Literal["json", "text", "auto"]

_logger = logging.getLogger("music_kpis")
_logger.setLevel(logging.INFO)  # under Airflow nobody else does
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
        return printable_json(entry)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f"  {key}={value}" for key, value in getattr(record, "fields", {}).items())
        mark = "" if record.levelno < logging.WARNING else f"{record.levelname}: "
        clock = datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%H:%M:%S")
        return printable(f"{clock}  {mark}{record.getMessage()}{fields}")


def printable(text: str, keep: str = "") -> str:
    """Return a text that does nothing to a terminal or a log: names of files may hold any character.

    Line ends, escapes, C1 controls, bidi marks and halves of surrogate pairs become `�`; characters in `keep` stay.
    """
    return "".join(one if one.isprintable() or one in keep else "\N{REPLACEMENT CHARACTER}" for one in text)


def printable_json(value: Any) -> str:
    r"""Return a value as one line of JSON; what `printable` replaces is written as `\uXXXX`, so nothing is lost."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in text)


def set_up_logging(log_format: LogFormat = "auto") -> None:
    """Log to standard error; `auto` is text on a terminal and JSON elsewhere.

    Under Airflow, leave this out: its handlers do.
    """
    if log_format == "auto":
        log_format = "text" if sys.stderr.isatty() else "json"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_TextFormatter() if log_format == "text" else _JsonFormatter())
    _logger.handlers[:] = [handler]
    _logger.propagate = False


def set_log_context(**fields: Any) -> None:
    """Add fields, such as the run id, to each JSON line from here on."""
    _context.update(fields)


def log(message: str, **fields: Any) -> None:
    """Log one event with its counts."""
    _log(logging.INFO, message, fields)


def warn(message: str, **fields: Any) -> None:
    """Log something that a person should look at."""
    _log(logging.WARNING, message, fields)


def _log(level: int, message: str, fields: dict[str, Any]) -> None:
    # The message is cleaned here too, for handlers that are not ours, as Airflow's.
    _logger.log(level, "%s", printable(message), extra={"fields": fields})
