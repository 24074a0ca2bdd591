"""One logger set-up: a JSON object a line for machines, a readable line on a terminal."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone
from typing import Any

_logger = logging.getLogger("kpi_pipeline")
_context: dict[str, Any] = {}


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
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
        clock = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        return f"{clock}  {mark}{record.getMessage()}{fields}"


def set_up_logging() -> None:
    """Log to standard error: text on a terminal, JSON elsewhere. Under Airflow, leave this out: its handlers do."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_TextFormatter() if sys.stderr.isatty() else _JsonFormatter())
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
