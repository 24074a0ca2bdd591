"""What has to be written so that a day's items are the wanted ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kpi_common.layout import TableLayout
from kpi_pipeline.dynamodb.items import Item, Key, key_attributes, key_of, same_item


@dataclass(frozen=True)
class Difference:
    """Items to put, keys to delete, and how many items are there already."""

    puts: list[Item]
    deletes: list[Item]
    unchanged: int

    def __bool__(self) -> bool:
        return bool(self.puts or self.deletes)


def difference(wanted: Mapping[Key, Item], present: Iterable[Item], layout: TableLayout) -> Difference:
    """Compare the items wanted, by key, with those that DynamoDB holds; numbers are compared as numbers."""
    missing = dict(wanted)
    puts: list[Item] = []
    deletes: list[Item] = []
    unchanged = 0
    for item in present:
        found = missing.pop(key_of(item, layout), None)
        if found is None:
            deletes.append(key_attributes(item, layout))
        elif same_item(found, item):
            unchanged += 1
        else:
            puts.append(found)
    return Difference([*puts, *missing.values()], deletes, unchanged)
