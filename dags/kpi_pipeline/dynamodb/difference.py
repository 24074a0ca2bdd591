"""What has to be written so that a day's items are the wanted ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from kpi_common.layout import TableLayout
from kpi_pipeline.dynamodb.items import Item, Key, key_attributes, key_of, same_item

Wanted = TypeVar("Wanted")


@dataclass(frozen=True)
class Difference(Generic[Wanted]):
    """Items to put, keys to delete, and how many items are there already."""

    puts: list[Wanted]
    deletes: list[Item]
    unchanged: int

    def __bool__(self) -> bool:
        return bool(self.puts or self.deletes)


def difference(
    wanted: Mapping[Key, tuple[Item, Wanted]], there: Iterable[Item], layout: TableLayout
) -> Difference[Wanted]:
    """Compare the items wanted with those that are there; numbers are compared as numbers.

    Args:
        wanted: by key, the item and whatever the caller wants back for it when it has to be put.
        there: the items that DynamoDB holds.
        layout: names the key's attributes.
    """
    missing = dict(wanted)
    puts: list[Wanted] = []
    deletes: list[Item] = []
    unchanged = 0
    for item in there:
        found = missing.pop(key_of(item, layout), None)
        if found is None:
            deletes.append(key_attributes(item, layout))
        elif same_item(found[0], item):
            unchanged += 1
        else:
            puts.append(found[1])
    puts.extend(handle for _, handle in missing.values())
    return Difference(puts, deletes, unchanged)
