"""What the load tests measured is printed at the end, also that of other workers."""

from __future__ import annotations

from typing import Any

import pytest

LOAD = "load"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the load tests: at the end, one worker would be busy with them and the other have nothing to do."""
    items.sort(key=lambda item: item.path.parent.name != LOAD)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print a line for each load."""
    told = [
        text
        for outcome in ("passed", "failed")
        for test in terminalreporter.stats.get(outcome, [])
        for name, text in getattr(test, "user_properties", [])
        if name == LOAD
    ]
    if told:
        terminalreporter.section("load")
        for text in told:
            terminalreporter.write_line(text)
