"""The KPI families, one module each. A module with a `KPI` here is a KPI table: nothing else lists them."""

from __future__ import annotations

import importlib
import pkgutil
from functools import lru_cache

from spark_app.kpis.definition import Kpi


@lru_cache(maxsize=1)
def all_kpis() -> tuple[Kpi, ...]:
    """Return every KPI table's definition, by name of its module."""
    found = []
    for module in pkgutil.iter_modules(__path__):
        kpi = getattr(importlib.import_module(f"{__name__}.{module.name}"), "KPI", None)
        if isinstance(kpi, Kpi):
            found.append(kpi)
    return tuple(found)
