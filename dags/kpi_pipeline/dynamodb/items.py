"""Items in DynamoDB JSON (`{"listen_count": {"N": "12"}}`) of the types that layouts use: texts, numbers and lists."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from kpi_common.layout import TableLayout

Item = dict[str, dict[str, Any]]
Key = tuple[str | Decimal, ...]

TYPES = frozenset({"S", "N", "L"})
MAX_ITEM_BYTES = 400 * 1024
MAX_PARTITION_KEY_BYTES = 2048
MAX_SORT_KEY_BYTES = 1024
WRITE_UNIT_BYTES = 1024


def comparable(value: dict[str, Any]) -> Any:
    """Return a form of an attribute value in which equal values are equal: numbers as numbers."""
    ((kind, content),) = value.items()
    if kind == "N":
        return kind, Decimal(content)
    return kind, [comparable(element) for element in content] if kind == "L" else content


def same_item(one: Item, other: Item) -> bool:
    """Whether two items mean the same."""
    if one == other:
        return True
    if one.keys() != other.keys():
        return False
    return all(value == other[name] or comparable(value) == comparable(other[name]) for name, value in one.items())


def key_of(item: Item, layout: TableLayout) -> Key:
    """Return the item's key; `KeyError` when an attribute of the key is missing or of another type."""
    values = ((item[key.name][key.type], key.type) for key in layout.keys)
    return tuple(Decimal(value) if kind == "N" else value for value, kind in values)


def key_attributes(item: Item, layout: TableLayout) -> Item:
    """Return those of the key's attributes that the item has."""
    return {key.name: item[key.name] for key in layout.keys if key.name in item}


def key_problem(item: Item, layout: TableLayout) -> str | None:
    """Return what DynamoDB would refuse in the item's key, or None."""
    for attribute in layout.keys:
        value = item.get(attribute.name, {}).get(attribute.type)
        if value is None:
            return f"{attribute.name} of type {attribute.type} is missing"
        limit = MAX_PARTITION_KEY_BYTES if attribute == layout.partition_key else MAX_SORT_KEY_BYTES
        size = value_size({attribute.type: value})
        if size == 0:
            return f"{attribute.name} is empty"
        if size > limit:
            return f"{attribute.name} has {size} bytes, allowed are {limit}"
    return None


def item_size(item: Item) -> int:
    """Return the bytes that DynamoDB counts for an item: names and values in UTF-8 (limit 400 KB)."""
    return sum(len(name.encode()) + value_size(value) for name, value in item.items())


def value_size(value: dict[str, Any]) -> int:
    """Return the bytes that DynamoDB counts for a value."""
    ((kind, content),) = value.items()
    if kind == "L":
        return 3 + sum(1 + value_size(element) for element in content)
    return number_size(content) if kind == "N" else len(content.encode())


def number_size(number: str) -> int:
    """Return the bytes of a number: one for two significant digits, one more, and one for a minus sign."""
    sign, digits, _ = Decimal(number).normalize().as_tuple()
    return (len(digits) + 1) // 2 + 1 + sign if any(digits) else 1


def write_units(size: int) -> int:
    """Return the write units of an item of that many bytes in its table, without its indexes."""
    return max(1, -(-size // WRITE_UNIT_BYTES))
