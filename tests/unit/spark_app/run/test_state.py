from collections.abc import Callable
from pathlib import Path

import pytest

from kpi_common.contracts import Dataset
from kpi_common.files import LocalStorage
from spark_app.errors import LockLostError, UsageError
from spark_app.lake.tables import Lake
from spark_app.run.files import Status
from spark_app.run.state import LakeState, Progress, StateFile, TrialGroup
from tests.unit.spark_app.ingest.ledger_files import NOON, a_version


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def test_a_new_lake_has_no_state_and_nothing_is_written_by_looking(lake: Lake) -> None:
    state = StateFile(lake, "r1")
    assert (state.exists, state.value) == (False, LakeState())
    assert not Path(lake.uri).exists()


def test_what_is_saved_is_read_again_and_fields_that_are_not_named_stay(lake: Lake) -> None:
    state = StateFile(lake, "r1")
    opened = (a_version(status=Status.PENDING, quarantined_by_reason={"in_future": 1}),)
    state.save("open", open=opened, next_file_id=7, judging=TrialGroup({"streams/a.csv": "10-1"}, 1))
    state.save("progress", progress=Progress(3, 0, -1), newest_accepted={Dataset.STREAMS: NOON})
    found = StateFile(lake, "r2").value
    assert found == state.value
    assert (found.open, found.next_file_id, found.progress.of(Dataset.STREAMS)) == (opened, 7, 3)
    assert (found.run_id, found.step) == ("r1", "progress")
    assert found.judging == TrialGroup({"streams/a.csv": "10-1"}, 1)


def test_a_run_that_lost_the_lake_writes_nothing(lake: Lake) -> None:
    asleep = StateFile(lake, "asleep")
    StateFile(lake, "awake").save("open", next_file_id=2)
    with pytest.raises(LockLostError, match=r"state\.json: was written by another run"):
        asleep.save("open", next_file_id=9)
    assert StateFile(lake, "r").value.next_file_id == 2


def test_nothing_is_written_without_the_lock(tmp_path: Path) -> None:
    def lost() -> None:
        raise LockLostError("lost")

    with pytest.raises(LockLostError):
        StateFile(Lake(str(tmp_path), lost), "r").save("open", next_file_id=2)
    assert list(tmp_path.iterdir()) == []


def test_a_write_whose_reply_was_lost_and_that_was_sent_again_counts_as_done(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As S3's client does it: the second request finds what the first has written, and is refused."""
    write_if = LocalStorage.write_if

    def twice(self: LocalStorage, uri: str, data: bytes, tag: str | None) -> str | None:
        write_if(self, uri, data, tag)
        return write_if(self, uri, data, tag)

    monkeypatch.setattr(LocalStorage, "write_if", twice)
    state = StateFile(lake, "r1")
    state.save("open", next_file_id=2)
    state.save("open", next_file_id=3)
    assert StateFile(lake, "r2").value.next_file_id == 3


def damaged(text: str) -> str:
    return text[: len(text) // 2]


def of_a_newer_release(text: str) -> str:
    return text.replace('"schema_version": 1', '"schema_version": 2')


@pytest.mark.parametrize(("change", "words"), [(damaged, "restore the file"), (of_a_newer_release, "newer release")])
def test_a_file_that_is_no_state_is_named(lake: Lake, change: Callable[[str], str], words: str) -> None:
    StateFile(lake, "r1").save("open", next_file_id=2)
    path = Path(lake.uri, "ops", "state.json")
    path.write_text(change(path.read_text()))
    with pytest.raises(UsageError, match=rf"ops/state\.json: .*{words}"):
        StateFile(lake, "r2")
