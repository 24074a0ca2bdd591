"""Data contracts: which columns a dataset has, their types, and its rules (files in `conf/contracts`)."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from functools import cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kpi_common.conf_files import load_toml
from kpi_common.errors import UsageError


class Dataset(StrEnum):
    """The three inputs; the value is the folder's name below the input."""

    STREAMS = "streams"
    SONGS = "songs"
    USERS = "users"


WHITE_SPACE = " \t\r\n\f\v"
FIRST_NOT_WHITE = "!"  # in the order of bytes, all white space comes before it
BROKEN_QUOTES = "broken_quotes"  # the reason of a record that RFC 4180 does not allow
MOST_COLUMNS = 24  # of a contract: each is a bit of one bigint, beside those of the checks
MOST_CHECKS = 35
CHECKED_TYPES = ("bigint", "timestamp")  # any text is a string, or names
BYTES_OF_A_TEXT = 4096  # at most, where a contract says nothing else


class Severity(StrEnum):
    """What a rule does to what breaks it."""

    REJECT_FILE = "reject_file"
    QUARANTINE = "quarantine"
    WARN = "warn"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Column(_Strict):
    """A column of a contract. A value that is there but not of the type breaks the rule `invalid_<column>`.

    A text of more than `max_bytes` bytes (in UTF-8) breaks the rule `too_long_<column>`. With `unicode_form`, texts are
    brought into that form before they are compared or staged, so that a name is one however its accents are written.
    `header` is the column's name in the source, where that is another one. `forms` are those of a timestamp: `local` is
    a clock in the source time zone, `offset` has `Z` or an offset and is an instant whatever that zone is.
    """

    name: str
    header: str = ""
    type: Literal["string", "bigint", "timestamp", "names"]
    required: bool = False
    description: str = ""
    invalid: Severity = Severity.QUARANTINE
    max_bytes: int = Field(default=BYTES_OF_A_TEXT, ge=1, le=1024 * 1024)
    unicode_form: Literal["NFC"] | None = None
    forms: tuple[Literal["local", "offset", "epoch_seconds", "epoch_milliseconds"], ...] = ("local", "offset")

    @property
    def source_name(self) -> str:
        """Its name in the header of a file."""
        return self.header or self.name

    @property
    def is_text(self) -> bool:
        """Whether any text is a value."""
        return self.type not in CHECKED_TYPES

    @model_validator(mode="after")
    def _forms_fit_the_type(self) -> Column:
        if self.unicode_form and not self.is_text:
            raise ValueError(f"column {self.name}: only a string or names can have a `unicode_form`")
        if "forms" in self.model_fields_set and self.type != "timestamp":
            raise ValueError(f"column {self.name}: only a timestamp has `forms`")
        if {"epoch_seconds", "epoch_milliseconds"} <= set(self.forms):
            raise ValueError(f"column {self.name}: epoch_seconds and epoch_milliseconds can't be told apart: name one")
        return self


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
    r"""One dataset's contract.

    `null_values` are texts that stand for no value. `quote_escape` says how a quote within a quoted field is written:
    `double` is RFC 4180's way (`""`); with `backslash`, `\"` stands for a quote, too, and `\\` for a backslash.
    """

    dataset: Dataset
    newline_in_field: bool
    null_values: tuple[str, ...] = ("", "\\N")
    quote_escape: Literal["double", "backslash"] = "double"
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

    def translated(self, header: Iterable[str]) -> tuple[str, ...]:
        """Return a file's header in the contract's names; what has one of these by chance is told apart."""
        ours = {column.source_name: column.name for column in self.columns}
        return tuple(ours.get(name) or (f"{name} (source)" if name in self.names else name) for name in header)

    def source_name(self, name: str) -> str:
        """Return the name of a column in the header of a file."""
        return next(column.source_name for column in self.columns if column.name == name)

    @property
    def checks(self) -> int:
        """How many ways there are for a row to break it (see `validation.check`): its structure, columns and rules."""
        return 5 + sum(column.required + 1 for column in self.columns) + len(self.rules)

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
    def _names_are_known_and_differ(self) -> Contract:
        for rule in self.rules:
            if rule.column not in self.names:
                raise ValueError(f"rule {rule.reason}: no column {rule.column!r} in the contract")
        if len({column.source_name for column in self.columns}) < len(self.columns):
            raise ValueError("two columns have the same name in the source (`header`, else `name`)")
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
