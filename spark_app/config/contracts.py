"""Data contracts: which columns a dataset has, their types, and its rules (files in `conf/contracts`)."""

from __future__ import annotations

from enum import StrEnum
from functools import cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kpi_common.conf_files import load_toml
from spark_app.errors import UsageError


class Dataset(StrEnum):
    """The three inputs; the value is the folder's name below the input."""

    STREAMS = "streams"
    SONGS = "songs"
    USERS = "users"


MOST_COLUMNS = 24  # of a contract: each is a bit of one bigint, beside those of the checks
MOST_CHECKS = 35
CHECKED_TYPES = ("bigint", "timestamp")  # any text is a string, or names


class Severity(StrEnum):
    """What a rule does to what breaks it."""

    REJECT_FILE = "reject_file"
    QUARANTINE = "quarantine"
    WARN = "warn"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Column(_Strict):
    """A column of a contract. A value that is there but not of the type breaks the rule `invalid_<column>`."""

    name: str
    type: Literal["string", "bigint", "timestamp", "names"]
    required: bool = False
    description: str = ""
    invalid: Severity = Severity.QUARANTINE


class Rule(_Strict):
    """A rule on the values of one column; `min` and `max` are both allowed values."""

    reason: str
    column: str
    check: Literal["range", "not_after_file", "existing_local_time"]
    severity: Severity
    min: int | str | None = None
    max: int | str | None = None
    description: str = ""

    @model_validator(mode="after")
    def _range_has_bounds(self) -> Rule:
        if self.check == "range" and self.min is None and self.max is None:
            raise ValueError(f"rule {self.reason}: a range needs `min` or `max`")
        return self


class Contract(_Strict):
    """One dataset's contract."""

    dataset: Dataset
    newline_in_field: bool
    columns: tuple[Column, ...] = Field(min_length=1)
    rules: tuple[Rule, ...] = ()

    @property
    def required(self) -> tuple[str, ...]:
        """Names of the columns that a file must have and a row must fill."""
        return tuple(column.name for column in self.columns if column.required)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all columns of the contract."""
        return tuple(column.name for column in self.columns)

    @property
    def checks(self) -> int:
        """How many ways there are for a row to break it (see `validation.check`): its structure, columns and rules."""
        of_columns = sum(column.required + (column.type in CHECKED_TYPES) for column in self.columns)
        return 2 + of_columns + len(self.rules)

    @model_validator(mode="after")
    def _is_not_too_long(self) -> Contract:
        if len(self.columns) > MOST_COLUMNS:
            raise ValueError(f"{len(self.columns)} columns; at most {MOST_COLUMNS} can be checked: leave some out")
        if self.checks > MOST_CHECKS:
            raise ValueError(
                f"columns and rules make {self.checks} checks of a row; at most {MOST_CHECKS} are possible"
            )
        return self

    @model_validator(mode="after")
    def _rules_name_columns(self) -> Contract:
        for rule in self.rules:
            if rule.column not in self.names:
                raise ValueError(f"rule {rule.reason}: no column {rule.column!r} in the contract")
        return self


@cache
def load_contract(dataset: Dataset) -> Contract:
    """Read `conf/contracts/<dataset>.toml`.

    Raises:
        UsageError: the file is not a contract; says where.
    """
    relative = f"contracts/{dataset}.toml"
    content: dict[str, Any] = load_toml(relative)
    try:
        return Contract.model_validate(content)
    except ValidationError as error:
        details = "; ".join(f"{'.'.join(map(str, d['loc']))}: {d['msg']}" for d in error.errors())
        raise UsageError(f"conf/{relative}: {details}") from error
