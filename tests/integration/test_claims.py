"""The ledger of submitted files on DynamoDB Local, and what a run claims by it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from mypy_boto3_dynamodb import DynamoDBClient

from kpi_common.errors import UsageError
from kpi_common.uris import StoredFile
from kpi_pipeline.files.archive import is_to_move
from kpi_pipeline.files.arrivals import SourceFile, claim_arrivals
from kpi_pipeline.files.claims import FAILED, PROCESSING, REJECTED, SUCCESS, ClaimLedger, Entry, Liveness
from kpi_pipeline.files.outcome import mark_failed, mark_processed
from kpi_pipeline.files.release import rejected_for
from kpi_pipeline.settings import PipelineSettings, load_delivery_settings, load_pipeline_settings

pytestmark = pytest.mark.integration

ALIVE = Liveness(lambda _: "running", 24)
DEAD = Liveness(lambda _: "failed", 24)


@pytest.fixture
def ledger(dynamodb: DynamoDBClient, table_prefix: str) -> ClaimLedger:
    made = ClaimLedger(load_delivery_settings(prefix=table_prefix), dynamodb)
    assert made.ensure_table()
    assert not made.ensure_table()
    return made


@pytest.fixture
def settings() -> PipelineSettings:
    needed = {"bucket_name": "b-1", "emr_application_id": "a", "execution_role_arn": "arn:aws:iam::123456789012:role/x"}
    return load_pipeline_settings(needed.get)


def source(name: str, etag: str = "e1", size: int = 10, minute: int = 0) -> SourceFile:
    stored = StoredFile(f"s3://b-1/raw/{name}", name, size, datetime(2024, 6, 25, 12, minute, tzinfo=UTC), etag)
    return SourceFile(name.split("/", maxsplit=1)[0], name, stored)


def manifest(*files: SourceFile) -> list[dict[str, Any]]:
    return [file.to_json() for file in files]


def names(files: list[SourceFile]) -> list[str]:
    return [file.name for file in files]


A, B, SONGS = source("streams/a.csv"), source("streams/b.csv", minute=1), source("songs/s.csv")


def accepted(file: SourceFile, rows: int = 5) -> dict[str, Any]:
    return {"name": file.name, "outcome": "accepted", "reason": None, "message": None, "rows": rows}


def test_a_file_is_claimed_by_one_run_only(ledger: ClaimLedger, settings: PipelineSettings) -> None:
    assert names(claim_arrivals([A, B], ledger, "one", settings, ALIVE).claimed) == ["streams/a.csv", "streams/b.csv"]
    other = claim_arrivals([A, B], ledger, "two", settings, ALIVE)
    assert (other.claimed, len(other.held)) == ([], 2)
    again = claim_arrivals([A, B], ledger, "one", settings, ALIVE)
    assert len(again.claimed) == 2, "the run itself keeps its claims when its task is tried again"


def test_of_two_at_the_same_moment_one_gets_it(ledger: ClaimLedger) -> None:
    first = Entry("streams/a.csv", PROCESSING, "e1", 10, "one")
    assert ledger.claim(first, None)
    assert not ledger.claim(replace(first, run_id="two"), None), "it has read that there is no entry yet"
    (held,) = ledger.read(["streams/a.csv"]).values()
    assert held.run_id == "one"


def test_the_claim_of_a_dead_run_is_given_up(ledger: ClaimLedger, settings: PipelineSettings) -> None:
    claim_arrivals([A], ledger, "one", settings, ALIVE)
    assert names(claim_arrivals([A], ledger, "two", settings, DEAD).claimed) == ["streams/a.csv"]
    outcome = mark_processed(ledger, "one", manifest(A), {"files": [accepted(A)]})
    assert outcome.not_ours == ["streams/a.csv"], "the dead one awakes and is refused"
    assert ledger.read([A.name])[A.name].status == PROCESSING


@pytest.mark.parametrize(("hours", "given_up"), [(24, 0), (0.000001, 1)])
def test_the_claim_of_an_unknown_run_is_given_up_when_it_is_old(
    ledger: ClaimLedger, settings: PipelineSettings, hours: float, given_up: int
) -> None:
    claim_arrivals([A], ledger, "another Airflow's", settings, ALIVE)
    entry = ledger.read([A.name])[A.name]
    ledger.settle(entry, PROCESSING)
    import time

    time.sleep(1.1)
    found = claim_arrivals([A], ledger, "two", settings, Liveness(lambda _: None, hours))
    assert len(found.claimed) == given_up


def test_what_is_done_is_claimed_again_only_with_other_content(ledger: ClaimLedger, settings: PipelineSettings) -> None:
    claim_arrivals([A, B, SONGS], ledger, "one", settings, ALIVE)
    rejected = {"name": B.name, "outcome": "rejected", "reason": "empty_file", "message": "the file is empty"}
    result = {"files": [accepted(A, 7), rejected, accepted(SONGS)]}
    outcome = mark_processed(ledger, "one", manifest(A, B, SONGS), result)
    assert outcome.succeeded == [A.name, SONGS.name]
    assert outcome.rejected == {B.name: "empty_file: the file is empty"}
    assert mark_processed(ledger, "one", manifest(A, B, SONGS), result) == outcome, "again: the same"

    found = claim_arrivals([A, B, SONGS], ledger, "two", settings, ALIVE)
    assert (found.claimed, [file.name for file, _ in found.done], names(found.known_reference)) == (
        [],
        [A.name, B.name],
        [SONGS.name],
    )
    corrected = [source(A.name, "e2"), source(B.name, "e2")]
    assert len(claim_arrivals(corrected, ledger, "two", settings, ALIVE).claimed) == 2


def test_files_that_the_job_passed_over_are_not_taken_for_successes(
    ledger: ClaimLedger, settings: PipelineSettings
) -> None:
    files = [source(f"streams/{number}.csv") for number in range(5)]
    claim_arrivals(files, ledger, "one", settings, ALIVE)
    passed = [
        {"name": files[1].name, "outcome": "rejected_before", "reason": "not_utf8", "message": "byte 0xff"},
        {"name": files[2].name, "outcome": "deferred", "reason": None, "message": None},
        {"name": files[3].name, "outcome": "superseded", "reason": None, "message": None},
        {"name": files[4].name, "outcome": "already_staged", "reason": None, "message": None},
    ]
    mark_processed(ledger, "one", manifest(*files), {"files": [], "passed_over": passed})
    entries = ledger.read(file.name for file in files)
    assert [entries[file.name].status for file in files] == [FAILED, REJECTED, FAILED, SUCCESS, SUCCESS]
    assert entries[files[0].name].reason.startswith("not_mentioned"), "nothing says that it was taken in"


def test_a_failed_job_gives_all_files_back_but_those_it_rejected(
    ledger: ClaimLedger, settings: PipelineSettings
) -> None:
    for number in range(5):
        claim_arrivals([A, B, SONGS], ledger, f"run-{number}", settings, DEAD)
        outcome = mark_failed(ledger, f"run-{number}", manifest(A, B, SONGS), None, "no capacity")
        assert set(outcome.failed) == {A.name, B.name, SONGS.name}
        again = mark_failed(ledger, f"run-{number}", manifest(A, B, SONGS), None, "no capacity")
        assert again == outcome, "marked twice is marked once"
    claim_arrivals([A, B, SONGS], ledger, "last", settings, DEAD)
    died = {"name": B.name, "outcome": "rejected", "reason": "run_died", "message": "three runs"}
    mark_failed(ledger, "last", manifest(A, B, SONGS), {"files": [died]}, "no KPI")
    assert rejected_for(ledger, "run_died") == [B.name]
    with pytest.raises(UsageError, match="the reasons are: run_died"):
        rejected_for(ledger, "empty_file")
    assert names(claim_arrivals([A, B, SONGS], ledger, "next", settings, DEAD).claimed) == [A.name, SONGS.name]
    assert len(claim_arrivals([source(B.name, "e2")], ledger, "next", settings, DEAD).claimed) == 1


def test_songs_of_which_runs_died_stay_where_they_are(ledger: ClaimLedger, settings: PipelineSettings) -> None:
    claim_arrivals([A, SONGS], ledger, "one", settings, DEAD)
    died = [{"name": f.name, "outcome": "rejected", "reason": "run_died", "message": "x"} for f in (A, SONGS)]
    mark_processed(ledger, "one", manifest(A, SONGS), {"files": died})
    entries = ledger.read([A.name, SONGS.name])
    assert is_to_move(A, entries[A.name])
    assert not is_to_move(SONGS, entries[SONGS.name])


def test_a_run_that_is_continued_takes_what_its_manifest_names(ledger: ClaimLedger, settings: PipelineSettings) -> None:
    claim_arrivals([A], ledger, "one", settings, ALIVE)
    mark_failed(ledger, "one", manifest(A), None, "cancelled")
    assert names(claim_arrivals([A, B], ledger, "one", settings, ALIVE, {A.name}).claimed) == [A.name]


def test_a_run_takes_the_oldest_up_to_its_limits(ledger: ClaimLedger, settings: PipelineSettings) -> None:
    files = [source(f"streams/{number:03d}.csv", size=100, minute=number % 60) for number in range(5)]
    limited = settings.model_copy(update={"max_files": 2})
    found = claim_arrivals(files, ledger, "one", limited, ALIVE)
    assert (names(found.claimed), found.waiting) == (["streams/000.csv", "streams/001.csv"], 3)
    limited = settings.model_copy(update={"max_bytes": 250})
    found = claim_arrivals(files[2:], ledger, "two", limited, ALIVE)
    assert len(found.claimed) == 2


def test_hundreds_of_entries_are_read(ledger: ClaimLedger, settings: PipelineSettings) -> None:
    files = [source(f"streams/{number:03d}.csv") for number in range(230)]
    assert len(claim_arrivals(files, ledger, "one", settings, ALIVE).claimed) == 230
    assert len(ledger.read(file.name for file in files)) == 230
    assert len(ledger.with_status(PROCESSING)) == 230


def test_a_file_that_waits_for_songs_is_taken_again_when_songs_come(
    ledger: ClaimLedger, settings: PipelineSettings
) -> None:
    claim_arrivals([A], ledger, "one", settings, ALIVE)
    rejected = {"name": A.name, "outcome": "rejected", "reason": "too_many_waiting", "message": "9 of 10", "rows": 10}
    mark_processed(ledger, "one", manifest(A), {"files": [rejected]})
    found = claim_arrivals([A], ledger, "two", settings, ALIVE)
    assert (found.claimed, found.done) == ([], []), "nothing to do for it"
    found = claim_arrivals([SONGS, A], ledger, "three", settings, ALIVE)
    assert names(found.claimed) == [SONGS.name, A.name]
