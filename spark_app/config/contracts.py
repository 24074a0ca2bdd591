"""Data contracts; they stand in `kpi_common.contracts`, as the pipeline's look at headers goes by them, too."""

from __future__ import annotations

from kpi_common.contracts import (
    BYTES_OF_A_TEXT,
    CHECKED_TYPES,
    FIRST_NOT_WHITE,
    MOST_CHECKS,
    MOST_COLUMNS,
    WHITE_SPACE,
    Column,
    Contract,
    Dataset,
    Rule,
    Severity,
    load_contract,
)

__all__ = [
    "BYTES_OF_A_TEXT",
    "CHECKED_TYPES",
    "FIRST_NOT_WHITE",
    "MOST_CHECKS",
    "MOST_COLUMNS",
    "WHITE_SPACE",
    "Column",
    "Contract",
    "Dataset",
    "Rule",
    "Severity",
    "load_contract",
]
