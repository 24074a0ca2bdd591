"""Items wanted against items that are there."""

from hypothesis import given
from hypothesis import strategies as st

from kpi_common.layout import KeyAttribute, TableLayout
from kpi_pipeline.dynamodb.difference import Difference, difference
from kpi_pipeline.dynamodb.items import Item, key_of

LAYOUT = TableLayout("T", KeyAttribute("date"), KeyAttribute("genre"))


def item(genre: str, plays: str = "1") -> Item:
    return {"date": {"S": "d"}, "genre": {"S": genre}, "plays": {"N": plays}}


def compare(wanted: list[Item], there: list[Item]) -> tuple[list[str], list[str], int]:
    found = difference({key_of(one, LAYOUT): one for one in wanted}, there, LAYOUT)
    return [put["genre"]["S"] for put in found.puts], [key["genre"]["S"] for key in found.deletes], found.unchanged


def test_new_changed_gone_and_unchanged() -> None:
    there = [item("same", "1.50"), item("changed"), item("gone")]
    assert compare([item("same", "1.5"), item("changed", "2"), item("new")], there) == (["changed", "new"], ["gone"], 1)


def test_nothing_wanted_and_nothing_there() -> None:
    assert compare([], [item("a"), item("b")]) == ([], ["a", "b"], 0)
    assert compare([item("a")], []) == (["a"], [], 0)
    found: Difference = difference({}, [], LAYOUT)
    assert not found


def test_a_delete_names_the_key_alone() -> None:
    found: Difference = difference({}, [item("gone")], LAYOUT)
    assert found
    assert found.deletes == [{"date": {"S": "d"}, "genre": {"S": "gone"}}]


plays = st.dictionaries(st.text(min_size=1, max_size=2), st.integers(0, 2).map(str), max_size=6)


@given(wanted=plays, there=plays)
def test_applying_a_difference_gives_what_is_wanted(wanted: dict[str, str], there: dict[str, str]) -> None:
    puts, deletes, unchanged = compare([item(*one) for one in wanted.items()], [item(*one) for one in there.items()])
    after = {genre: wanted.get(genre, "") if genre in puts else old for genre, old in there.items()}
    after.update({genre: wanted[genre] for genre in puts})
    for genre in deletes:
        del after[genre]
    assert after == wanted
    assert unchanged + len(puts) == len(wanted)
    assert all(there.get(genre) != wanted[genre] for genre in puts)
