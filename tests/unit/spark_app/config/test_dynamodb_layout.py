import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from kpi_common.conf_files import CONF_DIR_VARIABLE
from spark_app.config.dynamodb_layout import KpiTable, load_layout, shorten
from spark_app.errors import UsageError

OTHER_LAYOUT = """
max_text_bytes = 20

[tables.daily_genre]
name = "Genres"
partition_key = "date"
sort_key = "track_genre"

[tables.daily_genre.attributes]
date = { column = "listen_date", type = "S" }
track_genre = { column = "track_genre", type = "S" }
avg_listening_time = { column = "avg_listening_time_per_user_s", type = "N" }
top = { column = "top_3_song_names", type = "L" }
"""

UseLayout = Callable[[str], None]


@pytest.fixture
def use_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UseLayout:
    def write(text: str) -> None:
        (tmp_path / "dynamodb").mkdir(exist_ok=True)
        (tmp_path / "dynamodb" / "kpi_tables.toml").write_text(text)
        monkeypatch.setenv(CONF_DIR_VARIABLE, str(tmp_path))

    return write


def test_the_own_layout_has_the_tables_and_keys_of_the_design() -> None:
    keys = {table.name: (table.partition_key, table.sort_key) for table in load_layout().tables.values()}
    assert keys == {
        "DailyGenreKPIs": ("date", "genre"),
        "TopSongsPerGenre": ("date", "genre_rank"),
        "HourlyKPIs": ("date", "hour"),
        "DailyCountryKPIs": ("date", "country"),
        "TopAlbumsPerHour": ("date", "hour_rank"),
    }


def test_the_manifest_gets_keys_with_their_types_and_indexes() -> None:
    date_key, genre = {"name": "date", "type": "S"}, {"name": "genre", "type": "S"}
    assert load_layout().tables["daily_genre"].key_schema() == {
        "name": "DailyGenreKPIs",
        "partition_key": date_key,
        "sort_key": genre,
        "indexes": [{"name": "genre-date-index", "partition_key": genre, "sort_key": date_key}],
    }


def test_another_layout_needs_no_code(use_layout: UseLayout) -> None:
    use_layout(OTHER_LAYOUT)
    table = load_layout().tables["daily_genre"]
    row = {
        "listen_date": date(2024, 6, 25),
        "track_genre": "pop",
        "avg_listening_time_per_user_s": Decimal("0.500"),
        "top_3_song_names": ["A, B", "C"],
        "listen_count": 3,
    }
    assert table.item(row, 100) == {
        "date": {"S": "2024-06-25"},
        "track_genre": {"S": "pop"},
        "avg_listening_time": {"N": "0.500"},
        "top": {"L": [{"S": "A, B"}, {"S": "C"}]},
    }


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('sort_key = "track_genre"', 'sort_key = "genre"', "table Genres: key `genre` is not among its attributes"),
        ('partition_key = "date"', 'partition_key = "day"', "table Genres: key `day` is not among its attributes"),
        (
            'partition_key = "date"\nsort_key = "track_genre"',
            'partition_key = "track_genre"\nsort_key = "date"',
            r"the partition key `track_genre` must be the date \(column = 'listen_date'\)",
        ),
        ('sort_key = "track_genre"', 'sort_key = "top"', "key `top` can't be a list"),
        (
            'sort_key = "track_genre"',
            'sort_key = "track_genre"\nindexes = [{ name = "i", partition_key = "no", sort_key = "date" }]',
            "key `no` is not among its attributes",
        ),
        ('type = "N"', 'type = "B"', r"tables\.daily_genre\.attributes\.avg_listening_time\.type: Input should be"),
        ('sort_key = "track_genre"', "", r"tables\.daily_genre\.sort_key: Field required"),
        (
            "max_text_bytes = 20",
            "max_text_bytes = 400000",
            "max_text_bytes: Input should be less than or equal",
        ),
        ("max_text_bytes = 20", "", "max_text_bytes: Field required"),
        ('name = "Genres"', 'name = "Genres"\ncolour = "red"', "colour: Extra inputs are not permitted"),
    ],
)
def test_a_layout_that_can_not_work_says_why(use_layout: UseLayout, old: str, new: str, message: str) -> None:
    assert old in OTHER_LAYOUT
    use_layout(OTHER_LAYOUT.replace(old, new))
    with pytest.raises(UsageError, match=rf"conf/dynamodb/kpi_tables\.toml: .*{message}"):
        load_layout()


def table_with(kind: str) -> KpiTable:
    attributes = {name: {"column": name, "type": "S"} for name in ("listen_date", "key")}
    content = {"name": "T", "partition_key": "listen_date", "sort_key": "key"}
    return KpiTable.model_validate(
        {**content, "attributes": {**attributes, "value": {"column": "value", "type": kind}}}
    )


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("N", 12, {"N": "12"}),
        ("N", 0, {"N": "0"}),
        ("N", Decimal("0E-9"), {"N": "0.000000000"}),
        ("N", Decimal("123456789012345.678"), {"N": "123456789012345.678"}),
        ("S", 'Ä "x", y', {"S": 'Ä "x", y'}),
        ("S", date(2024, 1, 2), {"S": "2024-01-02"}),
        ("S", datetime(2024, 6, 25, 13), {"S": "2024-06-25T13:00:00Z"}),
        ("S", datetime(2024, 6, 25, 13, 30, tzinfo=UTC), {"S": "2024-06-25T13:30:00Z"}),
        ("S", datetime(2024, 6, 25, 15, tzinfo=timezone(timedelta(hours=2))), {"S": "2024-06-25T13:00:00Z"}),
        ("L", [], {"L": []}),
        ("L", ["a", "b, c"], {"L": [{"S": "a"}, {"S": "b, c"}]}),
    ],
)
def test_a_value_is_written_in_the_form_of_its_type(kind: str, value: Any, expected: dict[str, Any]) -> None:
    item = table_with(kind).item({"listen_date": date(2024, 6, 25), "key": "k", "value": value}, 100)
    assert item["value"] == expected


def test_an_attribute_without_value_is_left_out() -> None:
    item = table_with("S").item({"listen_date": date(2024, 6, 25), "key": "k", "value": None}, 100)
    assert item == {"listen_date": {"S": "2024-06-25"}, "key": {"S": "k"}}


def test_texts_are_cut_but_never_keys() -> None:
    """As it was, a title of 400 KB made the whole item one that DynamoDB does not take."""
    layout = load_layout()
    long = "x" * 400_000
    row = {attribute.column: long for attribute in layout.tables["daily_genre"].attributes.values()}
    row |= {"top_3_song_names": [long] * 3, "top_3_track_ids": [long] * 3, "listen_date": "2024-06-25"}
    item = layout.tables["daily_genre"].item(row, layout.max_text_bytes)
    assert item["genre"] == {"S": long}  # of the table and its index: DynamoDB refuses it, and the delivery reports it
    assert item["most_popular_track"] == {"S": "x" * 1021 + "…"}
    assert item["top_3_song_names"] == {"L": [{"S": "x" * 1021 + "…"}] * 3}
    assert len(json.dumps({**item, "genre": None}).encode()) < 20_000


@pytest.mark.parametrize("name", ["daily_genre", "top_songs", "hourly"])
def test_the_longest_texts_that_may_be_set_fit_into_an_item(name: str) -> None:
    table = load_layout().tables[name]
    row = {a.column: ["ü" * 400_000] * 5 if a.type == "L" else "ü" * 400_000 for a in table.attributes.values()}
    item = table.item(row, 16_384)
    keys = {table.partition_key, table.sort_key}
    assert sum(len(str(value).encode()) for key, value in item.items() if key not in keys) < 400_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a" * 16, "a" * 16),
        ("a" * 17, "a" * 13 + "…"),
        ("ü" * 8, "ü" * 8),
        ("ü" * 9, "ü" * 6 + "…"),
        ("😀" * 5, "😀" * 3 + "…"),
        ("aa" + "😀" * 4, "aa" + "😀" * 2 + "…"),
    ],
)
def test_a_text_is_cut_at_the_border_of_a_character(text: str, expected: str) -> None:
    assert shorten(text, 16) == expected
    assert len(expected.encode()) <= 16
    assert shorten(text, None) == text
