"""Keys, equality and sizes of items. Sizes are held against the real engine in the integration tests."""

from decimal import Decimal
from typing import Any

import pytest

from kpi_common.layout import KeyAttribute, TableLayout
from kpi_pipeline.dynamodb.items import Item, item_size, key_of, key_problem, same_item, value_size, write_units

LAYOUT = TableLayout("T", KeyAttribute("date"), KeyAttribute("rank", "N"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"N": "1.50"}, {"N": "1.5"}),
        ({"N": "100"}, {"N": "1E+2"}),
        ({"N": "0"}, {"N": "-0.0"}),
        ({"L": [{"N": "1.0"}]}, {"L": [{"N": "1"}]}),
        ({"L": [{"L": [{"N": "1.0"}]}]}, {"L": [{"L": [{"N": "1"}]}]}),
    ],
)
def test_equal_values_are_the_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert same_item({"x": one}, {"x": other})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"N": "1"}, {"S": "1"}),
        ({"N": "12345678901234567.001"}, {"N": "12345678901234567.002"}),
        ({"S": "1.50"}, {"S": "1.5"}),
        ({"S": "é"}, {"S": "e\u0301"}),
        ({"L": [{"S": "a"}, {"S": "b"}]}, {"L": [{"S": "b"}, {"S": "a"}]}),
        ({"L": []}, {"L": [{"S": "a"}]}),
        ({"BOOL": True}, {"BOOL": False}),
        ({"NULL": True}, {"S": ""}),
    ],
)
def test_different_values_differ(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert not same_item({"x": one}, {"x": other})
    assert not same_item({"x": one}, {"y": one})
    assert not same_item({"x": one}, {})


def test_number_keys_are_numbers() -> None:
    item: Item = {"date": {"S": "d"}, "rank": {"N": "1.0"}}
    assert key_of(item, LAYOUT) == ("d", Decimal(1))


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        ({"date": {"S": "d"}, "rank": {"N": "1"}}, None),
        ({"date": {"S": "d"}}, "rank of type N is missing"),
        ({"date": {"S": "d"}, "rank": {"S": "1"}}, "rank of type N is missing"),
        ({"date": {"S": ""}, "rank": {"N": "1"}}, "date is empty"),
        ({"date": {"S": "é" * 1024}, "rank": {"N": "1"}}, None),
        ({"date": {"S": "é" * 1024 + "x"}, "rank": {"N": "1"}}, "date has 2049 bytes, allowed are 2048"),
    ],
)
def test_key_problems(item: Item, problem: str | None) -> None:
    assert key_problem(item, LAYOUT) == problem


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ({"S": "é東🎵"}, 9),
        ({"N": "0"}, 1),
        ({"N": "12"}, 2),
        ({"N": "123"}, 3),
        ({"N": "-123"}, 4),
        ({"N": "100000"}, 2),
        ({"L": []}, 3),
        ({"L": [{"S": "ab"}, {"S": ""}]}, 7),
    ],
)
def test_sizes_of_values(value: dict[str, Any], size: int) -> None:
    assert value_size(value) == size
    assert item_size({"né": value}) == 3 + size


@pytest.mark.parametrize(("size", "units"), [(0, 1), (1024, 1), (1025, 2), (4096, 4)])
def test_write_units(size: int, units: int) -> None:
    assert write_units(size) == units
