from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from kpi_common.contracts import Dataset
from spark_app.errors import LockLostError, UsageError
from spark_app.ingest import file_ledger
from spark_app.ingest.file_ledger import Decision, Ledger, LedgerFolder, newest_accepted, shard_of
from spark_app.lake.tables import Lake
from spark_app.run.files import Status
from spark_app.run.state import StateFile
from tests.unit.spark_app.ingest.ledger_files import HOUR, LATER, NOON, a_file, a_version, ledger_of


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def folder_of(lake: Lake) -> LedgerFolder:
    """The ledger of a lake as a new run opens it."""
    return LedgerFolder(StateFile(lake, "r"))


@pytest.mark.parametrize(
    ("states", "etag", "modified_at", "decision"),
    [
        ([], "e1", NOON, Decision.NEW),
        ([(Status.ACCEPTED, "e1")], "e1", NOON, Decision.ALREADY_STAGED),
        ([(Status.ACCEPTED, "e1")], "e1", NOON - HOUR, Decision.ALREADY_STAGED),
        ([(Status.ACCEPTED, "e1")], "e2", LATER, Decision.NEW),
        ([(Status.ACCEPTED, "e1")], "e2", NOON, Decision.NEW),
        ([(Status.ACCEPTED, "e1")], "e2", NOON - HOUR, Decision.SUPERSEDED),
        ([(Status.ACCEPTED, "e1"), (Status.ABANDONED, "e2")], "e2", LATER, Decision.NEW),
        ([(Status.REPLACED, "e1"), (Status.ACCEPTED, "e2")], "e1", LATER, Decision.NEW),
        ([(Status.REPLACED, "e1"), (Status.ACCEPTED, "e2")], "e1", NOON, Decision.SUPERSEDED),
        ([(Status.REPLACED, "e1"), (Status.ACCEPTED, "e2")], "e2", LATER, Decision.ALREADY_STAGED),
        ([(Status.REJECTED, "e1"), (Status.REPLACED, "e1"), (Status.ACCEPTED, "e2")], "e1", LATER, Decision.NEW),
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
    ledger = Ledger(next_file_id=41)
    first = ledger.open(a_file("streams/a.csv"), "r1", NOON)
    other = ledger.open(a_file("songs/b.csv"), "r1", NOON)
    ledger.settle(replace(first, status=Status.ACCEPTED))
    again = ledger.open(a_file("streams/a.csv", "e2"), "r2", LATER)
    assert [(v.file_id, v.version) for v in (first, other, again)] == [(41, 1), (42, 1), (41, 2)]
    assert ledger.next_file_id == 43
    assert again.status is Status.PENDING
    assert (again.run_id, again.etag, again.updated_at) == ("r2", "e2", LATER)


def test_an_accepted_version_takes_the_place_of_the_one_before() -> None:
    ledger = ledger_of((Status.ACCEPTED, "e1"), (Status.ABANDONED, "e2"))
    ledger.settle(a_version(etag="e3", version=3, updated_at=LATER))
    assert [v.status for v in ledger.all] == [Status.REPLACED, Status.ABANDONED, Status.ACCEPTED]
    assert [v.updated_at for v in ledger.all] == [LATER, NOON, LATER]
    accepted = ledger.accepted("streams/a.csv")
    assert accepted is not None
    assert accepted.version == 3


def test_a_rejected_correction_leaves_the_accepted_version_in_place() -> None:
    ledger = ledger_of((Status.ACCEPTED, "e1"))
    ledger.settle(a_version(status=Status.REJECTED, etag="e2", version=2))
    assert [v.status for v in ledger.all] == [Status.ACCEPTED, Status.REJECTED]


def test_a_version_is_settled_once_more_in_its_place() -> None:
    ledger = ledger_of((Status.REPLACED, "e1"), (Status.ACCEPTED, "e2"))
    ledger.settle(a_version(status=Status.WITHDRAWN, etag="e2", version=2))
    assert [v.status for v in ledger.all] == [Status.REPLACED, Status.WITHDRAWN]


def test_the_newest_accepted_file_of_each_dataset_counts() -> None:
    versions = [
        a_version("streams/a.csv", modified_at=NOON + HOUR),
        a_version("streams/b.csv", modified_at=NOON + 2 * HOUR),
        a_version("streams/c.csv", Status.REJECTED, modified_at=NOON + 3 * HOUR),
        a_version("songs/s.csv", modified_at=NOON + 4 * HOUR),
    ]
    assert newest_accepted(versions) == {Dataset.STREAMS: NOON + 2 * HOUR, Dataset.SONGS: NOON + 4 * HOUR}


def test_the_etag_of_an_untouched_local_file_is_known() -> None:
    ledger = ledger_of((Status.ACCEPTED, "e1"))
    untouched = a_file(etag=None)
    assert ledger.etag_by_stat(untouched) == "e1"
    assert ledger.etag_by_stat(replace(untouched, stat="10-2")) is None
    assert ledger.etag_by_stat(replace(untouched, stat=None)) is None
    assert ledger.etag_by_stat(replace(untouched, uri="/elsewhere/streams/a.csv")) is None


def test_what_is_settled_is_read_again_and_nothing_is_open_then(lake: Lake) -> None:
    full = a_version(
        "streams/ä b.csv",
        modified_at=NOON + timedelta(microseconds=7),
        rows=9,
        valid=5,
        duplicates=1,
        quarantined=3,
        waiting=2,
        unknown_users=1,
        quarantined_by_reason={"missing_user_id": 2, "in_future": 1},
    )
    empty = a_version("users/u.csv", Status.REJECTED, reason="not_utf8", message="m", stat=None, file_id=2)
    state = StateFile(lake, "r1")
    state.save("open", open=(full, empty))
    folder = LedgerFolder(state)
    ledger = folder.read(["streams/ä b.csv", "users/u.csv"])
    ledger.next_file_id = 3
    folder.settle(ledger, [full, empty], "settle")
    assert folder_of(lake).read(["streams/ä b.csv"]).all == [full]
    assert folder_of(lake).read_all().all == [full, empty]
    value = StateFile(lake, "r2").value
    assert (value.open, value.next_file_id) == ((), 3)
    assert value.newest_accepted == {Dataset.STREAMS: full.modified_at}


def test_only_the_shards_of_the_files_at_hand_are_read_and_written(lake: Lake) -> None:
    here, there = "streams/a.csv", "streams/b.csv"
    assert shard_of(here) != shard_of(there)
    folder = folder_of(lake)
    folder.settle(folder.read([here, there]), [a_version(here), a_version(there, file_id=2)], "settle")
    shards = Path(lake.uri, "ops", "files")
    (shards / f"{shard_of(there):04}.json").write_text("damaged")
    again = folder_of(lake)
    again.settle(again.read([here]), [a_version(here, etag="e2", version=2)], "settle")
    assert [v.status for v in folder_of(lake).read([here]).all] == [Status.REPLACED, Status.ACCEPTED]
    assert (shards / f"{shard_of(there):04}.json").read_text() == "damaged"


@pytest.mark.parametrize(
    ("content", "at"), [("{", ""), ('{"streams/a.csv": [{"file_id": "x"}]}', r"streams/a\.csv\.0")]
)
def test_a_damaged_shard_is_named(lake: Lake, content: str, at: str) -> None:
    shard = Path(lake.uri, "ops", "files", f"{shard_of('streams/a.csv'):04}.json")
    shard.parent.mkdir(parents=True)
    shard.write_text(content)
    with pytest.raises(UsageError, match=rf"files/{shard.name}: can't be read \({at}.*restore the file"):
        folder_of(lake).read_all()


def test_names_of_one_shard_do_not_push_each_other_out(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_ledger, "SHARDS", 1)
    for file_id, name in enumerate(["streams/a.csv", "streams/b.csv"], start=1):
        folder = folder_of(lake)
        folder.settle(folder.read([name]), [a_version(name, file_id=file_id)], "settle")
    assert [v.name for v in folder_of(lake).read_all().all] == ["streams/a.csv", "streams/b.csv"]


def test_a_withdrawn_newest_file_moves_the_end_of_what_is_complete_back(lake: Lake) -> None:
    old, new = a_version("streams/a.csv"), a_version("streams/b.csv", modified_at=LATER, file_id=2)
    folder = folder_of(lake)
    folder.settle(folder.read([old.name, new.name]), [old, new], "settle")
    assert StateFile(lake, "r").value.newest_accepted == {Dataset.STREAMS: LATER}
    folder = folder_of(lake)
    folder.settle(folder.read([new.name]), [replace(new, status=Status.WITHDRAWN)], "withdrawn")
    assert StateFile(lake, "r").value.newest_accepted == {Dataset.STREAMS: NOON}


def test_a_run_that_lost_the_lake_writes_no_shard(lake: Lake) -> None:
    """It was asleep when another one took over, and that one has written since."""
    name = "streams/a.csv"
    asleep = folder_of(lake)
    seen = asleep.read([name])
    awake = folder_of(lake)
    awake.settle(awake.read([name]), [a_version(name)], "settle")
    with pytest.raises(LockLostError, match="another run"):
        asleep.settle(seen, [a_version(name, Status.REJECTED)], "settle")
    assert [v.status for v in folder_of(lake).read_all().all] == [Status.ACCEPTED]
