"""The layout of the DynamoDB tables (`conf/dynamodb/kpi_tables.toml`): typed, checked, and rows made into items."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kpi_common.conf_files import load_toml
from kpi_common.layout import IndexLayout, KeyAttribute, TableLayout
from spark_app.errors import UsageError

_FILE = "dynamodb/kpi_tables.toml"
DATE_COLUMN = "listen_date"
_ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Attribute(_Strict):
    """Where an attribute's value comes from, its DynamoDB type (L is a list of strings), and its scale."""

    column: str
    type: Literal["S", "N", "L"]
    scale: Annotated[int, Field(ge=0, le=17)] = 0


class Index(_Strict):
    """A global secondary index over two attributes of the table."""

    name: str
    partition_key: str
    sort_key: str


class KpiTable(_Strict):
    """One DynamoDB table."""

    name: str
    partition_key: str
    sort_key: str
    indexes: tuple[Index, ...] = ()
    attributes: Mapping[str, Attribute]

    @model_validator(mode="after")
    def _keys_are_attributes(self) -> KpiTable:
        for key in sorted(self._keys):
            if key not in self.attributes:
                raise ValueError(f"table {self.name}: key `{key}` is not among its attributes")
            if self.attributes[key].type == "L":
                raise ValueError(f"table {self.name}: key `{key}` can't be a list")
        if self.attributes[self.partition_key].column != DATE_COLUMN:
            raise ValueError(
                f"table {self.name}: the partition key `{self.partition_key}` must be the date "
                f"(column = {DATE_COLUMN!r}), as whole days are delivered"
            )
        return self

    def key_schema(self) -> dict[str, Any]:
        """Return the table's name, keys and indexes as the export's manifest has them."""
        indexes = (IndexLayout(one.name, self._key(one.partition_key), self._key(one.sort_key)) for one in self.indexes)
        keys = (self._key(self.partition_key), self._key(self.sort_key))
        return TableLayout(self.name, *keys, tuple(indexes)).to_json()

    def item(self, row: Mapping[str, Any], max_text_bytes: int) -> dict[str, Any]:
        """Return a row as a DynamoDB JSON item; NULLs are left out.

        Args:
            row: by column.
            max_text_bytes: to which texts are cut, those in lists too; keys (of indexes too) never are.
        """
        return {
            name: _value(row[attribute.column], attribute.type, None if name in self._keys else max_text_bytes)
            for name, attribute in self.attributes.items()
            if row[attribute.column] is not None
        }

    @property
    def _keys(self) -> set[str]:
        of_indexes = {key for index in self.indexes for key in (index.partition_key, index.sort_key)}
        return {self.partition_key, self.sort_key} | of_indexes

    def _key(self, name: str) -> KeyAttribute:
        return KeyAttribute(name, self.attributes[name].type)


class DynamoDbLayout(_Strict):
    """All KPI tables, by the name of the view they are made from.

    `max_text_bytes` (UTF-8) is so small that no item comes near DynamoDB's 400 KB.
    """

    max_text_bytes: Annotated[int, Field(ge=16, le=16_384)]
    tables: Mapping[str, KpiTable]


def load_layout() -> DynamoDbLayout:
    """Read the layout.

    Raises:
        UsageError: it can't work; says why.
    """
    try:
        return DynamoDbLayout.model_validate(load_toml(_FILE))
    except ValidationError as error:
        details = "; ".join(
            f"{'.'.join(map(str, d['loc']))}: {d['msg'].removeprefix('Value error, ')}" for d in error.errors()
        )
        raise UsageError(f"conf/{_FILE}: {details}") from error


def shorten(text: str, max_bytes: int | None) -> str:
    """Cut a text to so many bytes of UTF-8, at the border of a character, the ellipsis that marks it included."""
    if max_bytes is None or len(text.encode()) <= max_bytes:
        return text
    return text.encode()[: max_bytes - len(_ELLIPSIS.encode())].decode(errors="ignore") + _ELLIPSIS


def _value(value: Any, kind: str, max_bytes: int | None) -> dict[str, Any]:
    if kind == "L":
        return {"L": [{"S": shorten(str(element), max_bytes)} for element in value]}
    return {kind: shorten(_text(value), max_bytes)}


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        instant = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        return instant.strftime("%Y-%m-%dT%H:%M:%SZ")
    if isinstance(value, date):
        return value.isoformat()
    return format(value, "f") if isinstance(value, Decimal) else str(value)
