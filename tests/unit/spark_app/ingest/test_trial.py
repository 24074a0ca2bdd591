"""Files that a run died of are tried apart from others, until the bad one is found by itself."""

from dataclasses import replace
from pathlib import Path

import pytest

from spark_app.errors import NothingUsableError, StorageError
from spark_app.ingest.trial import Batch, note_trial, plan_batches
from spark_app.lake.tables import Lake
from spark_app.run.files import InputFile
from spark_app.run.state import LakeState, StateFile, TrialGroup
from tests.unit.spark_app.ingest.ledger_files import a_file

FILES = [a_file("songs/s.csv"), a_file("users/u.csv"), *(a_file(f"streams/{n:04}.csv") for n in range(200))]


class DiedError(Exception):
    """What the test's run dies of."""


def names(batch: Batch) -> list[str]:
    return [file.name for file in batch.files]


def live(lake: Lake, files: list[InputFile], killers: set[str]) -> tuple[set[str], set[str]]:
    """Let a run judge files, until it dies of one; return which were taken, and which it rejected unseen."""
    state = StateFile(lake, "r")
    taken: set[str] = set()
    condemned: set[str] = set()
    batches = plan_batches(files, state.value)
    for number, batch in enumerate(batches, start=1):
        try:
            with note_trial(state, batch, batches[number:]):
                if batch.condemned:
                    condemned.update(names(batch))
                    continue
                if killers.intersection(names(batch)):
                    raise DiedError
        except DiedError:
            return taken, condemned
        taken.update(names(batch))
        state.save("open", judging=None)
    state.save("open", judging=None)
    return taken, condemned


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path))


def test_all_files_are_one_batch_where_no_run_died() -> None:
    (batch,) = plan_batches(FILES, LakeState())
    assert (list(batch.files), batch.condemned) == (FILES, False)
    assert plan_batches([], LakeState()) == []


def test_a_file_that_kills_is_found_and_all_others_are_taken(lake: Lake) -> None:
    killer = "streams/0123.csv"
    left, runs = list(FILES), 0
    while left and runs < 20:
        runs += 1
        taken, condemned = live(lake, left, {killer})
        left = [file for file in left if file.name not in taken | condemned]
        assert killer not in taken
        assert condemned <= {killer}
    assert left == []
    assert runs <= 8


def test_new_files_are_taken_before_those_under_suspicion(lake: Lake) -> None:
    old = [a_file("streams/a.csv"), a_file("streams/b.csv")]
    assert live(lake, old, {"streams/a.csv"}) == (set(), set())
    taken, _ = live(lake, [*old, a_file("streams/new.csv")], {"streams/a.csv"})
    assert taken == {"streams/new.csv"}


def test_songs_under_suspicion_are_tried_first_as_streams_need_them() -> None:
    state = LakeState(judging=TrialGroup({"songs/s.csv": "10-1", "streams/0001.csv": "10-1"}))
    batches = plan_batches(FILES, state)
    assert [names(batch)[0] for batch in batches] == ["songs/s.csv", "users/u.csv", "streams/0001.csv"]


def test_a_file_is_rejected_when_three_runs_died_of_it_alone(lake: Lake) -> None:
    alone = [a_file("streams/a.csv")]
    assert [live(lake, alone, {"streams/a.csv"})[1] for _ in range(4)] == [set(), set(), set(), {"streams/a.csv"}]


def test_a_file_with_other_content_is_under_no_suspicion(lake: Lake) -> None:
    killer = a_file("streams/a.csv")
    for _ in range(3):
        live(lake, [killer], {killer.name})
    (batch,) = plan_batches([replace(killer, stat="11-2")], StateFile(lake, "r").value)
    assert not batch.condemned


@pytest.mark.parametrize(
    "error",
    [
        NothingUsableError("no songs"),
        StorageError("s3: access denied"),
        KeyboardInterrupt(),
        RuntimeError("java.io.IOException: No space left on device"),
    ],
    ids=["missing songs", "storage", "a stop", "full disk"],
)
def test_what_is_no_files_fault_leaves_suspicion_as_it_was(lake: Lake, error: BaseException) -> None:
    alone = [a_file("streams/a.csv")]
    live(lake, alone, {"streams/a.csv"})
    before = StateFile(lake, "r").value.judging
    for _ in range(4):
        state = StateFile(lake, "r")
        (batch,) = plan_batches(alone, state.value)
        with pytest.raises(type(error)), note_trial(state, batch, ()):
            raise error
    assert StateFile(lake, "r").value.judging == before
    assert not plan_batches(alone, StateFile(lake, "r").value)[0].condemned
