"""The table of what was tried: it comes from the tests' own properties, also those of other workers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

ROWS = "faults"
COLUMNS = ("topic", "tried", "reached", "restarted", "equal", "note")


def rows_of(topic: str, tried: str, note: str, count: int, *, equal: bool) -> dict[str, Any]:
    """Return a row: `count` faults were made (and reached, or the test had failed), each followed by a restart."""
    return {"topic": topic, "tried": tried, "note": note, "count": count, "equal": equal}


def print_table(reporter: Any, told: Iterable[tuple[str, Any]]) -> None:
    """Print all rows that tests told, then how many faults were tried and how many ends were not equal."""
    rows: list[dict[str, Any]] = [row for name, row in told if name == ROWS]
    if not rows:
        return
    reporter.section("faults")
    table = [COLUMNS]
    for row in rows:
        done = "yes" if row["count"] == 1 else f"{row['count']} times"
        table.append((row["topic"], row["tried"], done, done, "yes" if row["equal"] else "NO", row["note"]))
    widths = [max(len(line[column]) for line in table) for column in range(len(COLUMNS))]
    for line in table:
        reporter.write_line("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    tried = sum(row["count"] for row in rows)
    lost = sum(row["count"] for row in rows if not row["equal"])
    reporter.write_line(f"faults tried: {tried}; survived: {tried - lost}; lost: {lost}")
