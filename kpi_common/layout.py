"""Keys and indexes of a table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class KeyAttribute:
    """A key's name and its DynamoDB type (S, N or B)."""

    name: str
    type: str = "S"


@dataclass(frozen=True)
class IndexLayout:
    """A global secondary index with all attributes."""

    name: str
    partition_key: KeyAttribute
    sort_key: KeyAttribute | None = None

    @property
    def keys(self) -> tuple[KeyAttribute, ...]:
        return (self.partition_key,) if self.sort_key is None else (self.partition_key, self.sort_key)


@dataclass(frozen=True)
class TableLayout:
    """A table's keys and indexes; the name is without a prefix."""

    name: str
    partition_key: KeyAttribute
    sort_key: KeyAttribute | None = None
    indexes: tuple[IndexLayout, ...] = ()

    @property
    def keys(self) -> tuple[KeyAttribute, ...]:
        return (self.partition_key,) if self.sort_key is None else (self.partition_key, self.sort_key)

    def to_json(self) -> dict[str, Any]:
        """Return the entry of a manifest's `tables` that describes this layout."""
        return {**asdict(self), "indexes": [asdict(index) for index in self.indexes]}

    @classmethod
    def from_json(cls, table: dict[str, Any]) -> TableLayout:
        """Return the layout that an entry of a manifest's `tables` describes."""
        indexes = tuple(
            IndexLayout(index["name"], KeyAttribute(**index["partition_key"]), _optional_key(index.get("sort_key")))
            for index in table.get("indexes", [])
        )
        partition_key = KeyAttribute(**table["partition_key"])
        return cls(table["name"], partition_key, _optional_key(table.get("sort_key")), indexes)


def _optional_key(key: dict[str, str] | None) -> KeyAttribute | None:
    return None if key is None else KeyAttribute(**key)
