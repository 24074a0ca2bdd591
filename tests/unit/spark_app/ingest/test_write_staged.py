"""What is written of accepted files, and that it is counted back."""

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from kpi_common.contracts import Dataset
from spark_app.errors import AuditError
from spark_app.ingest.write_staged import Written, count_written, delete_old_rows
from spark_app.run.files import Status
from tests.unit.spark_app.ingest.ledger_files import HOUR, NOON
from tests.unit.spark_app.ingest.small_run import SmallRun, listen

GOOD = [listen(second) for second in range(40)]


def test_each_row_of_an_accepted_file_has_one_fate(run: SmallRun) -> None:
    run.put("streams/a.csv", *GOOD, listen(0), listen(1, user="x"), listen(2, track="new"), listen(3, user=99))
    run.put("streams/bad.csv", listen(0, user="x"))
    settled = run.take_in()
    version = settled["streams/a.csv"].version
    assert (version.status, version.rows, version.valid) == (Status.ACCEPTED, 44, 42)
    assert (version.duplicates, version.quarantined, version.waiting, version.unknown_users) == (1, 1, 1, 1)
    assert run.rows("quarantine/records", "file_name", "line_number", "raw", "reasons") == [
        ("streams/a.csv", 43, listen(1, user="x"), ["invalid_user_id"])
    ]
    assert len(run.rows("staged/streams", "track_id")) == 42
    assert settled["streams/bad.csv"].version.status is Status.REJECTED
    delete_old_rows(run.context, run.context.now - HOUR)
    assert len(run.rows("quarantine/records", "raw")) == 1
    delete_old_rows(run.context, run.context.now + HOUR)
    assert run.rows("quarantine/records", "raw") == []


def test_a_correction_replaces_all_rows_of_its_file_and_no_others(run: SmallRun, spark: SparkSession) -> None:
    run.put("streams/a.csv", *GOOD, listen(41, user="x"))
    run.put("streams/other.csv", listen(50), listen(51))
    run.take_in()
    run.put("streams/a.csv", listen(0), listen(1), at=NOON + HOUR)
    later = SmallRun(spark, run.folder)
    corrected = later.take_in()["streams/a.csv"].version
    assert (corrected.version, corrected.valid, corrected.quarantined) == (2, 2, 0)
    assert later.rows("quarantine/records", "raw") == []
    assert len(later.rows("staged/streams", "listen_time")) == 4


def test_a_staged_commit_names_its_files(empty_lake: SmallRun) -> None:
    run = empty_lake
    run.put("streams/a.csv", *GOOD)
    judged = run.judge()
    written = run.write(judged)
    assert list(written.staged) == [Dataset.USERS, Dataset.SONGS, Dataset.STREAMS]
    (streams,) = judged.accepted(Dataset.STREAMS)
    commit = run.context.lake.staged(Dataset.STREAMS).commit(written.staged[Dataset.STREAMS])
    assert commit.user_metadata["files"] == {str(streams.file_id): 1}
    assert written.quarantine is None


def test_other_counts_than_were_judged_are_a_defect(run: SmallRun, spark: SparkSession) -> None:
    run.put("streams/a.csv", *GOOD)
    judged = run.judge()
    run.write(judged)
    table = run.context.lake.staged(Dataset.STREAMS)
    short = table.replace(table.read(spark).limit(3), None, {})
    with pytest.raises(AuditError, match="40 valid rows and duplicates were counted, but 3 written"):
        count_written(run.context, judged, Written(None, {Dataset.STREAMS: short}))


def test_a_large_day_goes_into_several_files(references: Path, spark: SparkSession, tmp_path: Path) -> None:
    run = SmallRun.on_copy(references, spark, tmp_path, "rows_per_data_file=1000")
    run.put("streams/a.csv", *(f"{n},t,2024-06-25 10:00:00" for n in range(2500)))
    run.take_in()
    commit = run.context.lake.staged(Dataset.STREAMS).commit(0)
    assert 2 <= sum("add" in action for action in commit.actions) <= 3
