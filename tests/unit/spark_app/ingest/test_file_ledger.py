from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from spark_app.config.contracts import Dataset
from spark_app.ingest.file_ledger import Decision, Ledger, load_ledger, save_ledger
from spark_app.lake.delta_tables import Table
from spark_app.run.files import FileVersion, InputFile, Status

NOON = datetime(2024, 6, 25, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def a_file(name: str = "streams/a.csv", etag: str | None = "e1", modified_at: datetime = NOON) -> InputFile:
    return InputFile(Dataset(name.split("/", maxsplit=1)[0]), name, f"/in/{name}", 10, modified_at, etag, "10-1")


def ledger_of(*states: tuple[Status, str], reason: str | None = None) -> Ledger:
    """A ledger of one file; each version an hour younger than the one before."""
    ledger = Ledger()
    for number, (status, etag) in enumerate(states):
        opened = ledger.open(a_file(etag=etag, modified_at=NOON + number * HOUR), f"run{number}", NOON)
        ledger.put(replace(opened, status=status, reason=reason if status is Status.REJECTED else None))
    return ledger


LATER = NOON + 10 * HOUR


@pytest.mark.parametrize(
    ("states", "etag", "modified_at", "decision"),
    [
        ([], "e1", NOON, Decision.NEW),
        ([(Status.PENDING, "e1")], "e1", NOON, Decision.NEW),
        ([(Status.ACCEPTED, "e1")], "e1", NOON, Decision.ALREADY_STAGED),
        ([(Status.ACCEPTED, "e1")], "e1", NOON - HOUR, Decision.ALREADY_STAGED),
        ([(Status.ACCEPTED, "e1")], "e2", LATER, Decision.NEW),
        ([(Status.ACCEPTED, "e1")], "e2", NOON, Decision.NEW),
        ([(Status.ACCEPTED, "e1")], "e2", NOON - HOUR, Decision.SUPERSEDED),
        ([(Status.ACCEPTED, "e1"), (Status.PENDING, "e2")], "e1", NOON, Decision.NEW),
        ([(Status.REPLACED, "e1"), (Status.ACCEPTED, "e2")], "e1", LATER, Decision.NEW),
        ([(Status.REPLACED, "e1"), (Status.ACCEPTED, "e2")], "e1", NOON, Decision.SUPERSEDED),
        ([(Status.REPLACED, "e1"), (Status.ACCEPTED, "e2")], "e2", LATER, Decision.ALREADY_STAGED),
        ([(Status.REJECTED, "e1")], "e1", NOON, Decision.STILL_REJECTED),
        ([(Status.REJECTED, "e1")], "e2", LATER, Decision.NEW),
        ([(Status.ACCEPTED, "e1"), (Status.REJECTED, "e2")], "e2", LATER, Decision.STILL_REJECTED),
        ([(Status.ACCEPTED, "e1"), (Status.REJECTED, "e2")], "e1", LATER, Decision.ALREADY_STAGED),
        ([(Status.REJECTED, "e1"), (Status.RELEASED, "e1")], "e1", NOON, Decision.NEW),
        ([(Status.WITHDRAWN, "e1")], "e1", NOON, Decision.STILL_WITHDRAWN),
        ([(Status.WITHDRAWN, "e1")], "e2", NOON - HOUR, Decision.NEW),
        ([(Status.RELEASED, "e1")], "e1", NOON, Decision.NEW),
        ([(Status.ABANDONED, "e1")], "e1", NOON, Decision.NEW),
    ],
)
def test_what_becomes_of_a_listed_file(
    states: list[tuple[Status, str]], etag: str, modified_at: datetime, decision: Decision
) -> None:
    assert ledger_of(*states).decide(a_file(etag=etag, modified_at=modified_at)) is decision


def test_a_file_that_waited_for_songs_is_tried_again_when_songs_came() -> None:
    waiting = ledger_of((Status.REJECTED, "e1"), reason="too_many_waiting")
    assert waiting.decide(a_file()) is Decision.STILL_REJECTED
    assert waiting.decide(a_file(), songs_changed=True) is Decision.NEW
    bad = ledger_of((Status.REJECTED, "e1"), reason="too_many_quarantined")
    assert bad.decide(a_file(), songs_changed=True) is Decision.STILL_REJECTED


def test_a_file_keeps_its_id_and_another_gets_the_next() -> None:
    ledger = Ledger()
    first = ledger.open(a_file("streams/a.csv"), "r1", NOON)
    other = ledger.open(a_file("songs/b.csv"), "r1", NOON)
    again = ledger.open(a_file("streams/a.csv", "e2"), "r2", LATER)
    assert [(v.file_id, v.version) for v in (first, other, again)] == [(1, 1), (2, 1), (1, 2)]
    assert again.status is Status.PENDING
    assert (again.run_id, again.etag, again.updated_at) == ("r2", "e2", LATER)


def test_ids_go_on_after_those_that_were_loaded() -> None:
    loaded = Ledger([replace(ledger_of((Status.ACCEPTED, "e1")).all[0], file_id=41)])
    assert loaded.open(a_file("users/u.csv"), "r", NOON).file_id == 42


def test_an_accepted_version_takes_the_place_of_the_one_before() -> None:
    ledger = ledger_of((Status.ACCEPTED, "e1"), (Status.PENDING, "e2"), (Status.PENDING, "e3"))
    ledger.settle(replace(ledger.of("streams/a.csv")[2], status=Status.ACCEPTED, updated_at=LATER))
    assert [v.status for v in ledger.all] == [Status.REPLACED, Status.ABANDONED, Status.ACCEPTED]
    assert {v.updated_at for v in ledger.all} == {LATER}
    accepted = ledger.accepted("streams/a.csv")
    assert accepted is not None
    assert accepted.version == 3


def test_a_rejected_correction_leaves_the_accepted_version_in_place() -> None:
    ledger = ledger_of((Status.ACCEPTED, "e1"), (Status.PENDING, "e2"))
    ledger.settle(replace(ledger.of("streams/a.csv")[1], status=Status.REJECTED))
    assert [v.status for v in ledger.all] == [Status.ACCEPTED, Status.REJECTED]


def test_settling_one_file_leaves_others_alone() -> None:
    ledger = Ledger()
    mine, other = (ledger.open(a_file(name), "r", NOON) for name in ("streams/a.csv", "streams/b.csv"))
    ledger.settle(replace(mine, status=Status.ACCEPTED))
    assert ledger.of("streams/b.csv") == [other]


def test_complete_through_is_the_time_of_the_newest_accepted_streams_file() -> None:
    ledger = Ledger()
    assert ledger.complete_through is None
    for name, hours, status in (
        ("streams/a.csv", 1, Status.ACCEPTED),
        ("streams/b.csv", 2, Status.ACCEPTED),
        ("streams/c.csv", 3, Status.REJECTED),
        ("songs/s.csv", 4, Status.ACCEPTED),
    ):
        opened = ledger.open(a_file(name, modified_at=NOON + hours * HOUR), "r", NOON)
        ledger.put(replace(opened, status=status))
    assert ledger.complete_through == NOON + 2 * HOUR


def test_the_etag_of_an_untouched_local_file_is_known() -> None:
    ledger = ledger_of((Status.ACCEPTED, "e1"))
    untouched = a_file(etag=None)
    assert ledger.etag_by_stat(untouched) == "e1"
    assert ledger.etag_by_stat(replace(untouched, stat="10-2")) is None
    assert ledger.etag_by_stat(replace(untouched, stat=None)) is None
    assert ledger.etag_by_stat(replace(untouched, uri="/elsewhere/streams/a.csv")) is None


def test_versions_are_kept_in_order_however_they_come() -> None:
    versions = ledger_of((Status.REPLACED, "e1"), (Status.ACCEPTED, "e2")).all
    assert Ledger(reversed(versions)).all == versions


def test_what_is_saved_is_loaded_again(spark: SparkSession, tmp_path: Path) -> None:
    table = Table(str(tmp_path / "ingested_files"))
    assert load_ledger(lambda: spark, table).all == []
    ledger = Ledger()
    full = replace(
        ledger.open(a_file("streams/ä b.csv", "e1", NOON + timedelta(microseconds=7)), "r1", NOON),
        status=Status.ACCEPTED,
        rows=9,
        valid=5,
        duplicates=1,
        quarantined=3,
        waiting=2,
        unknown_users=1,
        quarantined_by_reason={"missing_user_id": 2, "in_future": 1},
    )
    ledger.put(full)
    empty: FileVersion = ledger.open(replace(a_file("users/u.csv"), stat=None), "r1", NOON)
    save_ledger(spark, table, ledger, ["streams/ä b.csv", "users/u.csv"], {"run_id": "r1"})
    assert load_ledger(lambda: spark, table).all == [full, empty]
    changed = replace(empty, status=Status.REJECTED, reason="not_utf8", message="m")
    ledger.put(changed)
    save_ledger(spark, table, ledger, ["users/u.csv"], {"run_id": "r1"})
    assert load_ledger(lambda: spark, table).all == [full, changed]
    assert table.version() == 1


def no_spark() -> SparkSession:
    raise AssertionError("Spark was asked for")


def test_the_copy_is_read_without_spark_and_only_while_it_is_of_the_newest_commit(
    spark: SparkSession, tmp_path: Path
) -> None:
    table = Table(str(tmp_path / "ingested_files"))
    assert load_ledger(no_spark, table).all == []
    ledger = Ledger()
    first = ledger.open(a_file("streams/a.csv"), "r1", NOON)
    second = ledger.open(a_file("streams/b.csv"), "r1", NOON)
    save_ledger(spark, table, ledger, ["streams/a.csv"], {})
    assert load_ledger(no_spark, table).all == [first]  # what was not saved is not in the copy
    later = load_ledger(no_spark, table)
    later.put(replace(first, status=Status.ACCEPTED))
    other = later.open(a_file("streams/b.csv"), "r2", NOON)
    save_ledger(spark, table, later, ["streams/b.csv"], {})
    assert load_ledger(no_spark, table).all == [first, other]
    assert second.file_id == other.file_id

    # A commit of which the copy knows nothing: killed before it was written, or made by somebody else.
    table.replace(table.read(spark).where("name = 'streams/b.csv'"), None, {})
    with pytest.raises(AssertionError, match="Spark was asked for"):
        load_ledger(no_spark, table)
    assert load_ledger(lambda: spark, table).all == [other]

    Path(f"{table.uri}_copy.json.gz").write_bytes(b"\x1f\x8b damaged")
    assert load_ledger(lambda: spark, table).all == [other]


def test_no_names_are_no_commit(spark: SparkSession, tmp_path: Path) -> None:
    table = Table(str(tmp_path / "ingested_files"))
    save_ledger(spark, table, Ledger(), [], {})
    assert table.version() == -1
