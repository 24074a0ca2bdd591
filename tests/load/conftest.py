"""The order of the load tests among all others."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the load tests: at the end, one worker would be busy with them and the other have nothing to do."""
    items.sort(key=lambda item: item.path.parent.name != "load")
