from datetime import UTC, datetime

from spark_app.export.export import ExportState

NOW = datetime(2024, 6, 26, tzinfo=UTC)
MILLISECONDS = 1_719_360_000_000


def state(*exports: tuple[str, int], delivered: str = "") -> ExportState:
    return ExportState(tuple({"run_id": run, "export_seq": seq} for run, seq in exports), frozenset(delivered))


def test_the_number_is_the_time_so_that_a_lake_built_again_goes_on_above() -> None:
    assert state().next_seq(NOW) == MILLISECONDS


def test_the_number_grows_even_if_the_clock_goes_back() -> None:
    assert state(("a", 1), ("b", MILLISECONDS + 5)).next_seq(NOW) == MILLISECONDS + 6


def test_the_newest_delivered_is_the_one_with_the_highest_number_that_has_a_receipt() -> None:
    exports = [("a", 1), ("c", 3), ("b", 2)]
    assert state(*exports).newest_delivered is None
    assert (state(*exports, delivered="ab").newest_delivered or {})["run_id"] == "b"
    assert (state(*exports, delivered="ab").newest or {})["run_id"] == "c"
    assert state().newest is None
