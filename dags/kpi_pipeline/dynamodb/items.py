"""Items in DynamoDB JSON (`{"listen_count": {"N": "12"}}`): keys, equality, sizes."""

from __future__ import annotations

import base64
from decimal import Decimal
from typing import Any, Callable, Union

from kpi_common.layout import KeyAttribute, TableLayout

Item = dict[str, dict[str, Any]]
KeyPart = Union[str, bytes, Decimal]
Key = tuple[KeyPart, ...]

MAX_ITEM_BYTES = 400 * 1024
MAX_PARTITION_KEY_BYTES = 2048
MAX_SORT_KEY_BYTES = 1024
WRITE_UNIT_BYTES = 1024


def as_bytes(value: str | bytes) -> bytes:
    """Return a binary value, which is base64 text in an export and bytes in boto3's answers."""
    return base64.b64decode(value) if isinstance(value, str) else value


def comparable(value: dict[str, Any]) -> Any:
    """Return a form of an attribute value in which equal values are equal: numbers as numbers, sets without order."""
    ((kind, content),) = value.items()
    form = _COMPARABLE.get(kind)
    return kind, content if form is None else form(content)


def same_item(one: Item, other: Item) -> bool:
    """Whether two items mean the same."""
    if one == other:
        return True
    if one.keys() != other.keys():
        return False
    return all(value == other[name] or comparable(value) == comparable(other[name]) for name, value in one.items())


def key_of(item: Item, layout: TableLayout) -> Key:
    """Return the item's key; `KeyError` when an attribute of the key is missing or of another type."""
    return tuple(_key_part(item[attribute.name][attribute.type], attribute) for attribute in layout.keys)


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
    size = _SIZES.get(kind)
    return 1 if size is None else size(content)


def number_size(number: str) -> int:
    """Return the bytes of a number: one for two significant digits, one more, and one for a minus sign."""
    decimal = Decimal(number).normalize()
    sign, digits, _ = decimal.as_tuple()
    if not any(digits):
        return 1
    return (len(digits) + 1) // 2 + 1 + sign


def write_units(size: int) -> int:
    """Return the write units of an item of that many bytes in its table, without its indexes."""
    return max(1, -(-size // WRITE_UNIT_BYTES))


def _key_part(value: str, attribute: KeyAttribute) -> KeyPart:
    if attribute.type == "N":
        return Decimal(value)
    return as_bytes(value) if attribute.type == "B" else value


def _text_size(text: str) -> int:
    return len(text.encode())


_COMPARABLE: dict[str, Callable[[Any], Any]] = {
    "N": Decimal,
    "B": as_bytes,
    "L": lambda elements: [comparable(element) for element in elements],
    "M": lambda elements: {name: comparable(element) for name, element in elements.items()},
    "SS": frozenset,
    "NS": lambda numbers: frozenset(map(Decimal, numbers)),
    "BS": lambda elements: frozenset(map(as_bytes, elements)),
}

_SIZES: dict[str, Callable[[Any], int]] = {
    "S": _text_size,
    "N": number_size,
    "B": lambda content: len(as_bytes(content)),
    "SS": lambda elements: sum(map(_text_size, elements)),
    "NS": lambda numbers: sum(map(number_size, numbers)),
    "BS": lambda elements: sum(len(as_bytes(element)) for element in elements),
    "L": lambda elements: 3 + sum(1 + value_size(element) for element in elements),
    "M": lambda elements: 3 + sum(1 + _text_size(name) + value_size(element) for name, element in elements.items()),
}
