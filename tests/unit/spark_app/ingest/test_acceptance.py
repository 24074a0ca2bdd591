"""Each file is accepted or rejected before anything of it is written."""

from contextlib import suppress
from dataclasses import replace

import pytest
from pyspark.sql import SparkSession

from kpi_common.contracts import Dataset
from spark_app.errors import AuditError, NothingUsableError
from spark_app.ingest.acceptance import require_references
from spark_app.ingest.candidates import Judged
from tests.unit.spark_app.ingest.ledger_files import HOUR, NOON
from tests.unit.spark_app.ingest.small_run import SmallRun, listen
from tests.unit.spark_app.ingest.test_ingest import candidate

GOOD = [listen(second) for second in range(20)]


def verdicts(judged: Judged) -> dict[str, str | None]:
    return {candidate.file.name: candidate.version.reason for candidate in judged.candidates}


def test_files_are_judged_by_their_rows_each_by_itself(empty_lake: SmallRun) -> None:
    run = empty_lake
    run.put("streams/good.csv", *GOOD, listen(20, user="x"))
    run.put("streams/bad.csv", listen(0), listen(1, user="x"), listen(2, track=""))
    run.put("streams/waiting.csv", listen(0), listen(1, track="new"))
    judged = run.judge()
    assert verdicts(judged) == {
        "songs/s.csv": None,
        "users/u.csv": None,
        "streams/bad.csv": "too_many_quarantined",
        "streams/good.csv": None,
        "streams/waiting.csv": "too_many_waiting",
    }
    found = {c.file.name: c for c in judged.candidates}
    good, bad = found["streams/good.csv"].version, found["streams/bad.csv"]
    assert (good.rows, good.quarantined, dict(good.quarantined_by_reason)) == (21, 1, {"invalid_user_id": 1})
    assert [sample["reasons"] for sample in bad.samples] == [["invalid_user_id"], ["missing_track_id"]]
    listens = judged.valid_rows(Dataset.STREAMS)
    assert listens is not None
    assert listens.count() == 20


def test_tracks_of_a_rejected_songs_file_are_unknown_and_those_of_an_accepted_one_are_known(
    empty_lake: SmallRun,
) -> None:
    run = empty_lake
    run.put("songs/bad.csv", "2,other,Ann,Album,Tune,50,x,pop")
    run.put("streams/a.csv", listen(0, track="other"))
    assert verdicts(run.judge())["streams/a.csv"] == "too_many_waiting"


def test_listens_meet_the_same_fates_beside_very_many_songs_and_users(
    run: SmallRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spark_app.lake.tables._MANY_BYTES", 4000)
    run.put("songs/new.csv", "2,new,Ann,Album,Tune,50,1000,pop")
    run.put("streams/a.csv", *GOOD, listen(20, track="new"), listen(21, track="unknown"), listen(22, user=99))
    version = run.take_in()["streams/a.csv"].version
    assert (version.valid, version.waiting, version.unknown_users) == (23, 1, 1)


def test_a_correction_must_share_a_listen_with_what_it_replaces(run: SmallRun, spark: SparkSession) -> None:
    run.put("streams/same.csv", *GOOD)
    run.put("streams/reused.csv", *GOOD)
    run.take_in()
    run.put("streams/same.csv", *GOOD[:1], listen(50), at=NOON + HOUR)
    run.put("streams/reused.csv", listen(50), listen(51), at=NOON + HOUR)
    latest = SmallRun(spark, run.folder)
    with latest.frames:
        assert verdicts(latest.judge()) == {"streams/reused.csv": "name_reused", "streams/same.csv": None}
    allowed = SmallRun(spark, run.folder, ("allow_name_reuse=true",))
    with allowed.frames:
        assert verdicts(allowed.judge()) == {"streams/reused.csv": None, "streams/same.csv": None}


def test_a_file_that_changes_after_the_look_into_it_is_left_alone(empty_lake: SmallRun) -> None:
    run = empty_lake
    run.put("streams/good.csv", *GOOD)
    growing = run.put("streams/growing.csv", *GOOD)
    candidates = run.inspect()
    with growing.open("a") as stream:
        stream.write(listen(30) + "\n")
    assert verdicts(run.judge(candidates)) == {
        "songs/s.csv": None,
        "users/u.csv": None,
        "streams/good.csv": None,
        "streams/growing.csv": "still_changing",
    }


def test_other_counts_of_a_file_that_did_not_change_are_a_defect(empty_lake: SmallRun) -> None:
    run = empty_lake
    run.put("streams/a.csv", *GOOD)
    candidates = run.inspect()
    wrong = [replace(c, inspection=replace(c.inspection, lines=c.inspection.lines + 1)) for c in candidates]
    with pytest.raises(AuditError, match="lines were read"):
        run.judge(wrong)


def test_frames_are_given_back_when_a_run_fails(empty_lake: SmallRun, spark: SparkSession) -> None:
    run = empty_lake
    before = held_frames(spark)  # some of them other tests', which Spark may let go at any moment
    run.put("streams/a.csv", *GOOD)
    with suppress(ZeroDivisionError), run.frames:
        run.judge()
        assert held_frames(spark) - before
        raise ZeroDivisionError
    assert held_frames(spark) - before == set()


def held_frames(spark: SparkSession) -> set[int]:
    """Ids of what Spark holds."""
    return set(spark.sparkContext._jsc.getPersistentRDDs().keySet())  # type: ignore[union-attr]


def test_songs_and_users_must_be_staged_or_accepted() -> None:
    songs, users = candidate("songs/s.csv"), candidate("users/u.csv")
    require_references(Judged((songs, users)), {})
    require_references(Judged((songs,)), {Dataset.USERS})
    require_references(Judged(), {Dataset.SONGS, Dataset.USERS})
    with pytest.raises(NothingUsableError, match="no usable users file") as error:
        require_references(Judged((songs,)), {})
    assert error.value.code == "users_missing"
    rejected = candidate("songs/s.csv", reason="not_utf8", message="byte 7")
    message = r"no usable songs file: .* \(songs/s\.csv: not_utf8: byte 7\)"
    with pytest.raises(NothingUsableError, match=message) as error:
        require_references(Judged((rejected, users)), {})
    assert error.value.code == "songs_refused"
