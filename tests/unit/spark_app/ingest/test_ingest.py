"""Which files a run takes in, and what it says of the others."""

import errno
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import boto3
import pytest
from moto import mock_aws

from kpi_common.files import LocalStorage
from kpi_common.s3_files import S3Storage
from spark_app.errors import AuditError
from spark_app.ingest import discovery, preflight
from spark_app.ingest.candidates import Candidate
from spark_app.ingest.discovery import Listing, list_input
from spark_app.ingest.file_ledger import Ledger, LedgerFolder
from spark_app.ingest.ingest import choose_files, inspect_batch, open_versions, record_skipped, settle_files
from spark_app.ingest.preflight import Inspection
from spark_app.ingest.trial import Batch, plan_batches
from spark_app.lake.tables import Lake
from spark_app.run.context import Context
from spark_app.run.files import InputFile, Status
from spark_app.run.result import RunResult
from spark_app.run.state import LakeState, StateFile, TrialGroup
from tests.unit.spark_app.builders import a_context, settings
from tests.unit.spark_app.ingest.ledger_files import HOUR, LATER, NOON, a_file, a_version

STREAMS = "user_id,track_id,listen_time\n1,t,2024-06-25 10:00:00\n"


def chosen(ledger: Ledger, *files: InputFile, **limits: int) -> list[str]:
    own = settings(*(f"{name}={value}" for name, value in limits.items()))
    return [file.name for file in choose_files(Listing(files), ledger, own).files]


def test_songs_and_users_come_first_then_streams_by_their_age() -> None:
    files = [a_file("streams/new.csv", modified_at=LATER), a_file("streams/old.csv"), a_file("users/u.csv")]
    files.append(a_file("songs/s.csv", modified_at=LATER))
    assert chosen(Ledger(), *files) == ["users/u.csv", "songs/s.csv", "streams/old.csv", "streams/new.csv"]


def test_what_is_over_a_limit_waits_but_one_file_is_always_taken() -> None:
    files = [a_file(f"streams/{n}.csv") for n in range(3)]  # of 10 bytes each
    assert chosen(Ledger(), *files, max_files=2) == ["streams/0.csv", "streams/1.csv"]
    assert chosen(Ledger(), *files, max_bytes=20) == ["streams/0.csv", "streams/1.csv"]
    assert chosen(Ledger(), *files, max_bytes=1) == ["streams/0.csv"]
    choice = choose_files(Listing(tuple(files)), Ledger(), settings("max_files=1"))
    assert choice.skipped_counts == {"deferred": 2}
    assert [(entry["name"], entry["outcome"]) for entry in choice.skipped] == [
        ("streams/1.csv", "deferred"),
        ("streams/2.csv", "deferred"),
    ]


@pytest.mark.parametrize("manifest", [None, {"path": "s3://b/m.json", "etag": "m1"}], ids=["listing", "manifest"])
def test_files_that_are_staged_are_only_counted_unless_a_manifest_names_them(
    manifest: dict[str, str | None] | None,
) -> None:
    choice = choose_files(Listing((a_file(),)), Ledger([a_version()]), settings())
    assert (choice.files, choice.skipped_counts) == ((), {"already_staged": 1})
    result = RunResult("run", "run", "s3://b/lake", None, NOON, manifest=manifest)
    record_skipped(result, choice)
    assert [entry["outcome"] for entry in result.skipped] == (["already_staged"] if manifest else [])


def test_a_rejected_file_says_again_why_it_was() -> None:
    before = a_version(status=Status.REJECTED, reason="not_utf8", message="byte 7")
    (entry,) = choose_files(Listing((a_file(),)), Ledger([before]), settings()).skipped
    assert entry == {"name": "streams/a.csv", "outcome": "rejected_before", "reason": "not_utf8", "message": "byte 7"}


def test_an_older_correction_says_why_it_is_skipped_and_how_it_is_taken_anyway() -> None:
    listing = Listing((a_file(etag="e2", modified_at=NOON - HOUR),))
    (entry,) = choose_files(listing, Ledger([a_version()]), settings()).skipped
    assert (entry["outcome"], entry["reason"]) == ("superseded", "older_than_accepted")
    assert "its time is 2024-06-25T11:00:00+00:00, before that of the accepted version of" in entry["message"]
    assert "`files withdraw streams/a.csv` and run again" in entry["message"]


def test_files_that_waited_for_songs_are_taken_with_new_songs() -> None:
    ledger = Ledger([a_version(status=Status.REJECTED, reason="too_many_waiting")])
    assert chosen(ledger, a_file()) == []
    assert chosen(ledger, a_file(), a_file("songs/s.csv")) == ["songs/s.csv", "streams/a.csv"]


def test_decisions_are_look_ups_however_many_files_are_listed() -> None:
    """Of so many, each searched for in a list would take longer than a test may."""
    names = [f"streams/{n}.csv" for n in range(60_000)]
    ledger = Ledger([a_version(name, file_id=n) for n, name in enumerate(names[:30_000], start=1)])
    files = tuple(a_file(name) for name in names)
    assert len(choose_files(Listing(files), ledger, settings("max_files=60000")).files) == 30_000
    opened = [ledger.open(file, "r", NOON) for file in files[30_000:]]
    assert len({version.file_id for version in opened}) == 30_000


# --- looking into files ---


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return a_context(tmp_path / "lake")


def listed(folder: Path, name: str, content: str = STREAMS) -> InputFile:
    """Write a file and list it."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    found = LocalStorage().find(str(path))
    assert found is not None
    return replace(a_file(name, None), uri=str(path), size=found.size, modified_at=found.modified_at, stat=found.stat)


def looked_into(context: Context, ledger: Ledger, *files: InputFile) -> dict[str, str | None]:
    """The reasons against files, by name."""
    (batch,) = plan_batches(files, LakeState())
    candidates, _ = inspect_batch(context, batch, ledger)
    return {candidate.file.name: candidate.version.reason for candidate in candidates}


def test_a_file_whose_content_is_staged_is_no_candidate(context: Context, tmp_path: Path) -> None:
    file = listed(tmp_path, "streams/a.csv")
    (batch,) = plan_batches([file], LakeState())
    (candidate,), _ = inspect_batch(context, batch, Ledger())
    staged = Ledger([replace(candidate.version, status=Status.ACCEPTED, stat="touched")])
    candidates, choice = inspect_batch(context, batch, staged)
    assert (candidates, choice.skipped_counts) == ([], {"already_staged": 1})


def test_a_file_that_changes_while_it_is_read_is_left_alone_and_others_are_taken(
    context: Context, tmp_path: Path
) -> None:
    growing, good, gone = (listed(tmp_path, f"streams/{name}.csv") for name in ("growing", "good", "gone"))
    with Path(growing.uri).open("a") as stream:
        stream.write("2,t,2024-06-25 10:00:01\n")
    Path(gone.uri).unlink()
    reasons = looked_into(context, Ledger(), growing, good, gone)
    assert reasons == {"streams/growing.csv": "still_changing", "streams/good.csv": None, "streams/gone.csv": "gone"}


def test_a_file_that_cannot_be_read_is_rejected_until_it_changes_and_others_are_taken(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with mode 000, or a 403 for one object; who runs the tests may be allowed to read everything."""
    bad, good = listed(tmp_path, "streams/bad.csv"), listed(tmp_path, "streams/good.csv")
    opened = LocalStorage.open

    def refused(self: LocalStorage, uri: str) -> object:
        if uri == bad.uri:
            raise PermissionError(errno.EACCES, "Permission denied", uri)
        return opened(self, uri)

    monkeypatch.setattr(LocalStorage, "open", refused)
    (batch,) = plan_batches([bad, good], LakeState())
    candidates, _ = inspect_batch(context, batch, Ledger())
    assert [c.version.reason for c in candidates] == ["unreadable_file", None]
    assert "Permission denied" in (candidates[0].version.message or "")
    rejected = Ledger([replace(candidates[0].version, status=Status.REJECTED)])
    assert chosen(rejected, bad) == []
    assert chosen(rejected, replace(bad, stat="other")) == [bad.name]
    rejected.settle(replace(candidates[0].version, status=Status.RELEASED))
    (released,) = choose_files(Listing((bad,)), rejected, settings()).files
    assert released == bad


def test_a_disk_that_is_out_of_order_rejects_no_file(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: LocalStorage, uri: str) -> object:
        raise OSError(errno.EMFILE, "Too many open files", uri)

    file = listed(tmp_path, "streams/a.csv")
    monkeypatch.setattr(LocalStorage, "open", fails)
    with pytest.raises(OSError, match="Too many open files"):
        looked_into(context, Ledger(), file)


def test_an_object_in_the_glacier_is_rejected_with_the_reason_of_s3(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")  # noqa: S106
        monkeypatch.setattr(discovery, "storage_for", lambda _: S3Storage(client))
        monkeypatch.setattr(preflight, "storage_for", lambda _: S3Storage(client))
        client.create_bucket(Bucket="music")
        client.put_object(Bucket="music", Key="raw/streams/a.csv", Body=STREAMS.encode())
        client.put_object(Bucket="music", Key="raw/streams/cold.csv", Body=STREAMS.encode(), StorageClass="GLACIER")
        (batch,) = plan_batches(list_input("s3://music/raw").files, LakeState())
        candidates, _ = inspect_batch(context, batch, Ledger())
    assert {c.file.name: c.version.reason for c in candidates} == {
        "streams/a.csv": None,
        "streams/cold.csv": "unreadable_file",
    }
    assert "InvalidObjectState" in str([c.version.message for c in candidates])


def test_a_file_that_runs_died_of_is_rejected_without_a_look(context: Context) -> None:
    file = a_file(etag=None)  # there is no such file
    batch = Batch((file,), TrialGroup({file.name: "10-1"}, deaths=3))
    (candidate,), _ = inspect_batch(context, batch, Ledger())
    assert candidate.version.reason == "run_died"
    assert "`files retry`" in (candidate.version.message or "")


# --- what becomes of them ---


def candidate(name: str = "streams/a.csv", **fields: object) -> Candidate:
    return Candidate(Inspection(a_file(name)), a_version(name, Status.PENDING, **fields))  # type: ignore[arg-type]


def settled(context: Context, *candidates: Candidate) -> StateFile:
    """Open and settle files in a lake; return its state as the next run reads it."""
    state = StateFile(Lake(context.lake.uri), "r")
    folder = LedgerFolder(state)
    ledger = folder.read([c.file.name for c in candidates])
    open_versions(state, ledger, candidates)
    settle_files(context, folder, ledger, candidates)
    return StateFile(Lake(context.lake.uri), "r")


def test_accepted_and_rejected_files_are_recorded_and_those_left_alone_are_not(context: Context) -> None:
    state = settled(
        context,
        candidate("streams/good.csv", rows=3, valid=1, duplicates=1, quarantined=1),
        candidate("streams/bad.csv", reason="not_utf8", file_id=2),
        candidate("streams/growing.csv", reason="still_changing", file_id=3),
    )
    found = {v.name: v.status for v in LedgerFolder(state).read_all().all}
    assert found == {"streams/good.csv": Status.ACCEPTED, "streams/bad.csv": Status.REJECTED}
    assert state.value.open == ()


def test_only_files_that_are_staged_are_open_meanwhile(context: Context) -> None:
    state = StateFile(Lake(context.lake.uri), "r")
    good, bad = candidate("streams/good.csv"), candidate("streams/bad.csv", reason="not_utf8")
    state.save("judge", judging=TrialGroup({"streams/good.csv": "10-1"}))
    open_versions(state, Ledger(next_file_id=9), [good, bad])
    value = StateFile(Lake(context.lake.uri), "r").value
    assert (value.open, value.next_file_id, value.judging) == ((good.version,), 9, None)


def test_a_row_without_a_fate_settles_nothing(context: Context) -> None:
    with pytest.raises(AuditError, match="4 rows were read, but 1 valid"):
        settled(context, candidate(rows=4, valid=1, duplicates=1, quarantined=1))
    state = StateFile(Lake(context.lake.uri), "r")
    assert [v.status for v in state.value.open] == [Status.PENDING]
    assert LedgerFolder(state).read_all().all == []


def test_an_outcome_has_counts_once_the_file_is_settled() -> None:
    pending = candidate(rows=3, valid=3)
    assert pending.outcome().as_json()["rows"] == 0
    done = pending.counted(status=Status.ACCEPTED, updated_at=NOON + timedelta(hours=1)).outcome().as_json()
    assert (done["outcome"], done["rows"], done["valid"]) == ("accepted", 3, 3)
    left = candidate(reason="still_changing", message="m").outcome().as_json()
    assert (left["outcome"], left["reason"]) == ("changed", "still_changing")
    assert candidate(reason="gone").outcome().outcome == "missing"
    assert candidate(reason="not_utf8").outcome().outcome == "rejected"
