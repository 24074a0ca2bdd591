"""What a dead run left half done is finished or taken back when a lake is opened."""

from dataclasses import replace
from pathlib import Path

import pytest

from kpi_common.contracts import Dataset
from spark_app.errors import UsageError
from spark_app.ingest import write_staged
from spark_app.ingest.file_ledger import LedgerFolder
from spark_app.ingest.write_staged import count_written
from spark_app.recovery import open_lake
from spark_app.run.files import FileVersion, Status
from spark_app.run.state import Progress, StateFile
from spark_app.spark.local_frames import local_frame
from tests.unit.spark_app.builders import a_context
from tests.unit.spark_app.ingest.ledger_files import HOUR, NOON, a_version
from tests.unit.spark_app.ingest.small_run import SmallRun, listen

GOOD = [listen(second) for second in range(40)]
OLD_LEDGER = """
    file_id int, version int, dataset string, name string, uri string, etag string, size bigint,
    modified_at timestamp, stat string, status string, reason string, message string,
    rows bigint, valid bigint, duplicates bigint, quarantined bigint, waiting bigint, unknown_users bigint,
    quarantined_by_reason string, run_id string, updated_at timestamp
"""
OLD_PROGRESS = "run_id string, streams_version bigint, songs_version bigint, users_version bigint, updated_at timestamp"


def dies(*_: object) -> int:
    raise ZeroDivisionError


def ledger_after(run: SmallRun) -> dict[str, list[FileVersion]]:
    """Open the lake as the next run does; all that its ledger then holds."""
    state = open_lake(a_context(run.folder / "lake", lambda: run.spark))
    assert StateFile(run.context.lake, "r").value.open == ()
    ledger = LedgerFolder(state).read_all()
    return {version.name: ledger.of(version.name) for version in ledger.all}


def test_what_was_staged_is_accepted_with_what_is_counted_there(empty_lake: SmallRun) -> None:
    run = empty_lake
    run.put("streams/a.csv", *GOOD, listen(0), listen(1, user="x"), listen(2, track="new"), listen(3, user=99))
    judged = run.judge()
    written = run.write(judged)  # and dies
    expected = {c.file.name: c.version for c in count_written(run.context, judged, written)}
    for name, (version,) in ledger_after(run).items():
        assert version.status is Status.ACCEPTED
        assert replace(version, status=Status.PENDING, updated_at=expected[name].updated_at) == expected[name]
    assert StateFile(run.context.lake, "r").value.newest_accepted == dict.fromkeys(Dataset, NOON)


def a_version_with_a_bad_row(run: SmallRun, run_id: str = "r") -> list[tuple[object, ...]]:
    """streams/a.csv is accepted; what stands in quarantine then."""
    run.put("streams/a.csv", *GOOD, listen(41, user="x"))
    SmallRun(run.spark, run.folder, run_id=run_id).take_in()
    quarantined = run.rows("quarantine/records", "raw")
    assert quarantined != []
    return quarantined


def a_dead_correction(run: SmallRun, monkeypatch: pytest.MonkeyPatch, *rows: str, run_id: str = "dead") -> None:
    """A run dies between the quarantine and the staged rows of a correction of streams/a.csv."""
    run.put("streams/a.csv", *rows, at=NOON + HOUR)
    dead = SmallRun(run.spark, run.folder, run_id=run_id)
    monkeypatch.setattr(write_staged, "_write_staged", dies)
    with dead.frames, pytest.raises(ZeroDivisionError):
        dead.write(dead.judge())


def test_what_was_not_staged_is_abandoned_and_its_quarantined_rows_go(
    run: SmallRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dead run has put a correction's bad rows in the place of the accepted version's."""
    before = a_version_with_a_bad_row(run)
    run.put("streams/new.csv", *GOOD, listen(43, user="z"))
    a_dead_correction(run, monkeypatch, *GOOD, listen(42, user="y"))
    assert run.rows("quarantine/records", "raw") != before
    found = ledger_after(run)
    assert [version.status for version in found["streams/a.csv"]] == [Status.ACCEPTED, Status.ABANDONED]
    assert [version.status for version in found["streams/new.csv"]] == [Status.ABANDONED]
    assert run.rows("quarantine/records", "raw") == before


def test_quarantined_rows_come_back_that_a_correction_without_such_took_away(
    run: SmallRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = a_version_with_a_bad_row(run)
    a_dead_correction(run, monkeypatch, *GOOD)
    assert run.rows("quarantine/records", "raw") == []
    ledger_after(run)
    assert run.rows("quarantine/records", "raw") == before


def test_quarantined_rows_come_back_where_the_log_was_cleaned_up(
    run: SmallRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Delta deletes what is older than the retention; what it needs to read the table stays."""
    before = a_version_with_a_bad_row(run)
    table = f"delta.`{run.context.lake.quarantine.uri}`"
    run.spark.sql(f"ALTER TABLE {table} SET TBLPROPERTIES ('delta.checkpointInterval' = 1)")
    a_dead_correction(run, monkeypatch, *GOOD, listen(42, user="x"))
    Path(run.context.lake.quarantine.uri, "_delta_log", f"{0:020}.json").unlink()
    ledger_after(run)
    assert run.rows("quarantine/records", "raw") == before


def test_of_two_runs_by_one_name_the_newer_is_taken_back(run: SmallRun, monkeypatch: pytest.MonkeyPatch) -> None:
    before = a_version_with_a_bad_row(run, "same")
    a_dead_correction(run, monkeypatch, *GOOD, listen(42, user="x"), run_id="same")
    ledger_after(run)
    assert run.rows("quarantine/records", "raw") == before


def test_a_withdrawal_is_done_again(run: SmallRun) -> None:
    run.put("streams/a.csv", *GOOD)
    version = run.take_in()["streams/a.csv"].version
    run.state.save("withdraw", open=(replace(version, status=Status.WITHDRAWING),))
    assert [v.status for v in ledger_after(run)["streams/a.csv"]] == [Status.WITHDRAWN]
    assert run.rows("staged/streams", "track_id") == []
    assert set(StateFile(run.context.lake, "r").value.newest_accepted) == {Dataset.SONGS, Dataset.USERS}


def test_a_file_that_is_settled_already_is_left_as_it_is(run: SmallRun) -> None:
    """Killed between the ledger and the state: the next run finds the file open, and settled."""
    run.put("streams/a.csv", *GOOD)
    settled = run.take_in()["streams/a.csv"].version
    run.state.save("open", open=(replace(settled, status=Status.PENDING, valid=0),))
    assert ledger_after(run)["streams/a.csv"] == [settled]


def test_staged_tables_without_a_state_are_refused(run: SmallRun) -> None:
    Path(run.context.lake.uri, "ops", "state.json").unlink()
    with pytest.raises(UsageError, match=r"no ops/state\.json: restore ops/ from a backup"):
        ledger_after(run)


def test_the_tables_of_an_earlier_release_are_read_once_and_continued(empty_lake: SmallRun) -> None:
    run = empty_lake
    run.put("streams/a.csv", *GOOD)
    accepted = [candidate.version for candidate in run.take_in().values()]
    rejected = a_version("streams/bad.csv", Status.REJECTED, file_id=7, reason="not_utf8", stat=None)
    pending = a_version("streams/half.csv", Status.PENDING, file_id=8)
    lake = run.context.lake
    for path in (Path(lake.uri, "ops", "files"), Path(lake.uri, "ops")):
        for file in path.glob("*.json"):
            file.unlink()
    columns = [line.split()[0] for line in OLD_LEDGER.replace("\n", " ").split(",")]
    rows = [{**vars(v), "quarantined_by_reason": "{}"} for v in (*accepted, rejected, pending)]
    old = local_frame(run.spark, [tuple(row[name] for name in columns) for row in rows], OLD_LEDGER)
    lake.ingested_files.replace(old, None, {})
    lake.progress.replace(local_frame(run.spark, [("old", 0, 0, 0, NOON)], OLD_PROGRESS), None, {})
    found = ledger_after(run)
    assert {name: versions[-1].status for name, versions in found.items()} == {
        "songs/s.csv": Status.ACCEPTED,
        "users/u.csv": Status.ACCEPTED,
        "streams/a.csv": Status.ACCEPTED,
        "streams/bad.csv": Status.REJECTED,
        "streams/half.csv": Status.ABANDONED,
    }
    value = StateFile(lake, "r").value
    assert (value.next_file_id, value.progress, value.newest_accepted) == (
        9,
        Progress(0, 0, 0),
        dict.fromkeys(Dataset, NOON),
    )
    assert found["streams/bad.csv"] == [rejected]
    assert lake.ingested_files.version() == 0
    assert ledger_after(run) == found
