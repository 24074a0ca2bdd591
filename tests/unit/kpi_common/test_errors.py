"""Messages are for people: what bad input can make of them is bounded."""

from kpi_common.errors import LONGEST_MESSAGE, AppError, first_of


def test_a_long_message_keeps_its_beginning_and_its_end() -> None:
    message = str(AppError("file.csv: " + "x" * 1_000_000 + ": split the file"))
    assert len(message) == LONGEST_MESSAGE
    assert message.startswith("file.csv: xxx")
    assert message.endswith("xxx: split the file")
    assert str(AppError("y" * LONGEST_MESSAGE)) == "y" * LONGEST_MESSAGE


def test_of_many_things_a_few_are_named() -> None:
    assert first_of(["a", "b"]) == "a; b"
    assert first_of([*"abcdefgh"]) == "a; b; c; d; e; and 3 more"
