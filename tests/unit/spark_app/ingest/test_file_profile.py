from collections import Counter
from dataclasses import replace

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from kpi_common.contracts import Dataset, load_contract
from spark_app.ingest.file_profile import (
    FileProfile,
    References,
    count_by_flags,
    dataset_quality,
    max_rows_per_day,
    profile_files,
    quality,
    verdict,
)
from spark_app.ingest.staged_rows import listen_day
from spark_app.ingest.validation import Checked
from tests.unit.spark_app.builders import checked, settings

TIME = "2024-06-25 10:00:00"


def profiled(rows: Checked, *, by_lines: bool) -> FileProfile:
    counted = count_by_flags(rows.frame, by_lines=by_lines)
    return profile_files(counted, rows, by_lines=by_lines)[1]


def test_rows_are_counted_by_fate_before_duplicates_are_taken_out(spark: SparkSession) -> None:
    references = References(
        tracks=spark.createDataFrame([("known",)], "track_id string"),
        users=spark.createDataFrame([(1,)], "user_id bigint"),
    )
    rows = checked(
        spark, Dataset.STREAMS, f"1,known,{TIME}", f"1,known,{TIME}", f"2,new,{TIME}", f"x,new,{TIME}", f",,{TIME}"
    )
    rows = replace(rows, frame=references.look_up(rows.frame))
    found = profiled(rows, by_lines=False)
    assert (found.rows, found.kept, found.quarantined) == (5, 3, 2)
    assert (found.waiting, found.unknown_users) == (1, 1)
    assert +found.by_reason == Counter(invalid_user_id=1, missing_user_id=1, missing_track_id=1)
    assert +found.nulls == Counter(user_id=1, track_id=1)


def test_the_days_of_a_file_are_those_of_its_kept_rows(spark: SparkSession) -> None:
    rows = checked(spark, Dataset.STREAMS, f"1,t,{TIME}", "1,t,2024-06-23 10:00:00", "x,t,2024-06-20 10:00:00")
    rows = replace(rows, frame=References().look_up(rows.frame))
    counted = count_by_flags(rows.frame, by_lines=False, day=listen_day("UTC"))
    assert profile_files(counted, rows, by_lines=False)[1].days == (19897, 19899)


def test_a_day_has_at_most_the_rows_of_all_files_that_may_have_it() -> None:
    one_day, two_days = FileProfile(rows=5, days=(10, 10)), FileProfile(rows=7, quarantined=1, days=(10, 11))
    other = FileProfile(rows=8, days=(12, 12))
    assert max_rows_per_day([one_day, two_days, other]) == 11
    assert max_rows_per_day([two_days, other]) == 8
    assert max_rows_per_day([FileProfile()]) == max_rows_per_day([]) == 0


def test_only_the_files_own_header_is_no_row(spark: SparkSession) -> None:
    """A second line with the same text is a row like any other, and a bad one."""
    header = "user_id,track_id,listen_time"
    rows = checked(spark, Dataset.STREAMS, header, f"1,t,{TIME}", header)
    of_lines = References().look_up(rows.frame).withColumns({"block": F.lit(0), "row": F.col("line_number")})
    by_lines = profiled(replace(rows, frame=of_lines), by_lines=True)
    assert (by_lines.rows, by_lines.quarantined) == (2, 1)
    assert profiled(replace(rows, frame=of_lines), by_lines=False).rows == 3


@pytest.mark.parametrize(
    ("profile", "reason"),
    [
        (FileProfile(rows=100, quarantined=5, waiting=20), None),
        (FileProfile(rows=100, quarantined=6), "too_many_quarantined"),
        (FileProfile(rows=100, waiting=21), "too_many_waiting"),
        (FileProfile(rows=100, quarantined=6, waiting=21), "too_many_quarantined"),
        (FileProfile(rows=1, quarantined=1), "too_many_quarantined"),
        (FileProfile(), None),
    ],
)
def test_a_file_is_refused_above_the_allowed_shares(
    spark: SparkSession, profile: FileProfile, reason: str | None
) -> None:
    found = verdict(profile, checked(spark, Dataset.STREAMS, f"1,t,{TIME}"), settings())
    assert (found[0] if found else None) == reason


def test_the_allowed_shares_are_settings(spark: SparkSession) -> None:
    own = settings("max_quarantined_share=1", "max_waiting_share=1")
    profile = FileProfile(rows=10, quarantined=10, waiting=10)
    assert verdict(profile, checked(spark, Dataset.STREAMS, f"1,t,{TIME}"), own) is None


def test_quality_is_in_shares_of_all_rows() -> None:
    contract = load_contract(Dataset.STREAMS)
    one = FileProfile(rows=3, nulls=Counter(user_id=1), by_reason=Counter(missing_user_id=1))
    assert quality(one, contract)["null_share"] == {"user_id": 0.333333, "track_id": 0.0, "listen_time": 0.0}
    assert quality(FileProfile(), contract)["rows"] == 0
    both = dataset_quality([one, FileProfile(rows=1)], contract)
    assert (both["rows"], both["broken_share"]) == (4, {"missing_user_id": 0.25})
