from datetime import date, timedelta

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from kpi_common.contracts import Dataset
from spark_app.ingest.file_profile import FileProfile
from spark_app.ingest.staged_rows import listen_day
from spark_app.ingest.validation import Checked
from spark_app.ingest.value_limits import too_many_values
from tests.unit.spark_app.builders import checked, settings

LIMITS = settings().model_copy(update={"max_dates_per_file": 3, "max_genres_per_file": 3})


def found(rows: Checked, profile: FileProfile) -> dict[int, tuple[str, str]]:
    return too_many_values(rows, {1: profile}, LIMITS, listen_day("UTC"))


def days(spark: SparkSession, *numbers: int) -> tuple[Checked, FileProfile]:
    first = date(2024, 1, 1)
    rows = [f"{row},t,{first + timedelta(days=day)} 10:00:00" for row, day in enumerate(numbers)]
    begin = (first - date(1970, 1, 1)).days
    profile = FileProfile(rows=len(rows), days=(begin + min(numbers), begin + max(numbers)))
    return checked(spark, Dataset.STREAMS, *rows, "bad,t,2020-01-01 10:00:00"), profile


def test_a_file_with_more_dates_than_allowed_is_named(spark: SparkSession) -> None:
    reason, message = found(*days(spark, 0, 1, 2, 3, 3))[1]
    assert reason == "too_many_dates"
    assert "4 different dates; at most 3 are allowed (max_dates_per_file)" in message


def test_few_dates_far_apart_are_fine(spark: SparkSession) -> None:
    assert found(*days(spark, 0, 60, 120)) == {}


def test_a_file_of_a_short_period_is_not_read_again(spark: SparkSession) -> None:
    rows, profile = days(spark, 0, 2, 1)
    broken = Checked(rows.frame.where(F.raise_error(F.lit("read again")).isNotNull()), rows.contract, rows.checks)
    assert found(broken, profile) == {}


def test_a_file_with_more_genres_than_allowed_is_named(spark: SparkSession) -> None:
    def songs(*genres: str) -> Checked:
        return checked(spark, Dataset.SONGS, *(f"{n},t{n},A,Song,50,1,{genre}" for n, genre in enumerate(genres)))

    assert found(songs("a", "b", "c", "c", "a"), FileProfile(rows=5)) == {}
    reason, message = found(songs("a", "b", "c", "d", ""), FileProfile(rows=5, quarantined=1))[1]
    assert reason == "too_many_genres"
    assert "4 different genres; at most 3 are allowed (max_genres_per_file)" in message
    assert found(checked(spark, Dataset.USERS, "1,,,,"), FileProfile(rows=5)) == {}
