"""The result of a run: what it says of files and of the whole."""

from datetime import UTC, datetime

import jsonschema
import pytest

from kpi_common.conf_files import load_schema
from spark_app.commands import _check_usable
from spark_app.errors import NothingUsableError
from spark_app.run.files import Status
from spark_app.run.result import FileOutcome, RunResult
from tests.unit.spark_app.ingest.ledger_files import a_file, a_version

START = datetime(2024, 6, 25, tzinfo=UTC)


def result_of(*outcomes: FileOutcome) -> RunResult:
    result = RunResult("r", "run", "/lake", "/in", START)
    result.record(outcomes)
    return result


def outcome(name: str, what: str, reason: str | None = None, **counts: int) -> FileOutcome:
    version = a_version(name, Status.ACCEPTED, **counts) if what == "accepted" else None
    return FileOutcome(a_file(name), what, reason, version=version)


def test_what_is_recorded_again_replaces_what_was_known() -> None:
    result = result_of(outcome("streams/a.csv", "accepted", rows=1, valid=1))
    result.record([outcome("streams/a.csv", "rejected", "not_utf8"), outcome("streams/b.csv", "changed")])
    result.skipped_counts["already_staged"] = 3
    assert result.outcomes == {"rejected": 1, "changed": 1, "already_staged": 3}


def test_totals_are_of_accepted_streams_and_of_each_dataset() -> None:
    result = result_of(
        outcome("streams/a.csv", "accepted", rows=4, valid=3, quarantined=1),
        outcome("streams/b.csv", "accepted", rows=2, valid=1, duplicates=1),
        outcome("streams/bad.csv", "rejected", "not_utf8"),
        outcome("songs/s.csv", "accepted", rows=7, valid=7),
    )
    content = result.as_json(START, [])
    jsonschema.validate(content, load_schema("run_result"))
    assert (content["totals"]["rows"], content["totals"]["valid"], content["totals"]["duplicates"]) == (6, 4, 1)
    assert content["totals"]["files"] == {"accepted": 3, "rejected": 1}
    assert content["totals_by_dataset"]["songs"]["rows"] == 7


def test_a_run_whose_files_were_all_rejected_is_of_no_use() -> None:
    with pytest.raises(NothingUsableError, match=r"every new file was rejected: streams/a\.csv: not_utf8"):
        _check_usable(result_of(outcome("streams/a.csv", "rejected", "not_utf8")))
    _check_usable(result_of(outcome("streams/a.csv", "rejected"), outcome("streams/b.csv", "accepted")))


def test_a_run_with_nothing_to_do_says_so() -> None:
    idle = result_of(outcome("streams/growing.csv", "changed", "still_changing"))
    _check_usable(idle)
    assert idle.status == "nothing_to_do"
    busy = result_of()
    busy.dirty_dates = ["2024-06-25"]  # left by a run that was killed
    _check_usable(busy)
    assert busy.status == "succeeded"
