from dataclasses import replace
from pathlib import Path

import pytest

from spark_app.errors import UsageError
from spark_app.lake.tables import Lake
from spark_app.run.forgotten import FORGOTTEN_FILE, Forgotten, read_forgotten
from tests.unit.spark_app.builders import settings

KEY = b"0123456789abcdef0123456789abcdef"


def key_file(folder: Path, key: bytes = KEY) -> str:
    path = folder / "key"
    path.write_bytes(key + b"\n")
    return f"forget_key={path}"


def test_those_who_were_written_are_read_and_their_ids_are_not_in_the_file(tmp_path: Path) -> None:
    lake, given = Lake(str(tmp_path / "lake")), settings(key_file(tmp_path))
    written = read_forgotten(lake, given, with_key=True).adding([7654321, -8])
    written.write(lake)
    found = read_forgotten(lake, given)
    assert found == written
    assert [user in found for user in (7654321, -8, 8, 7654322)] == [True, True, False, False]
    assert b"7654321" not in (tmp_path / "lake" / FORGOTTEN_FILE).read_bytes()
    assert KEY.decode() not in repr(found)
    found.adding([9]).write(lake)
    assert 9 in read_forgotten(lake, given)


def test_another_key_gives_other_hashes() -> None:
    one, other = Forgotten(KEY).adding([1]), Forgotten(b"x" * 32).adding([1])
    assert one.hashes.isdisjoint(other.hashes)
    assert 1 not in replace(other, hashes=one.hashes)


def test_without_anybody_forgotten_no_key_is_needed(tmp_path: Path) -> None:
    assert read_forgotten(Lake(str(tmp_path)), settings()) == Forgotten()
    assert 1 not in Forgotten()


def test_a_missing_a_short_and_another_key_are_said(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    with pytest.raises(UsageError, match=r"setting `forget_key` is empty; .* name a secret of Secrets Manager"):
        read_forgotten(lake, settings(), with_key=True)
    with pytest.raises(UsageError, match="there is no such file"):
        read_forgotten(lake, settings(f"forget_key={tmp_path}/none"), with_key=True)
    with pytest.raises(UsageError, match="has 5 bytes; at least 32 are needed"):
        read_forgotten(lake, settings(key_file(tmp_path, b"short")), with_key=True)
    Forgotten(b"y" * 32).adding([1]).write(lake)
    with pytest.raises(UsageError, match="`forget_key` is empty"):
        read_forgotten(lake, settings())
    with pytest.raises(UsageError, match=r"is not the key that .*forgotten\.json was made with"):
        read_forgotten(lake, settings(key_file(tmp_path)))
    lake.write(FORGOTTEN_FILE, b"{")
    with pytest.raises(UsageError, match=r"forgotten\.json: can't be read"):
        read_forgotten(lake, settings(key_file(tmp_path)))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("17,t,2024-06-25 10:00:00", True),
        ('"17"; t', True),
        ("t\t+17", True),
        ("x|017|y", True),
        ("'17", True),
        ("170,t17,2024-06-17 17:00:17", False),
        ("17.0,-17", False),
        ("9" * 30, False),
        ("", False),
    ],
)
def test_a_text_names_a_user_by_a_whole_field(text: str, named: bool) -> None:
    assert Forgotten(KEY).adding([17]).are_named_in(text) is named
