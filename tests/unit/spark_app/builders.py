"""Small frames and contracts, as the modules under test get them."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from kpi_common.contracts import Contract, Dataset, load_contract
from spark_app.config.settings import Settings, load_settings
from spark_app.ingest.csv_records import RECORD_SCHEMA, split_fields
from spark_app.ingest.validation import Checked, check
from spark_app.lake.tables import Lake
from spark_app.log import Steps
from spark_app.run.context import Context
from spark_app.run.result import RunResult

FILE_TIME = datetime(2024, 6, 26, tzinfo=UTC)
SONGS = (
    "track_id string, id bigint, track_genre string, track_name string, artists string, album_name string, "
    "popularity bigint, duration_ms bigint"
)
STAGED_SONGS = f"file_modified_at timestamp, file_name string, {SONGS}"
HEADERS = {
    Dataset.STREAMS: ("user_id", "track_id", "listen_time"),
    Dataset.SONGS: ("id", "track_id", "artists", "track_name", "popularity", "duration_ms", "track_genre"),
    Dataset.USERS: ("user_id", "user_name", "user_age", "user_country", "created_at"),
}


@lru_cache
def settings(*assignments: str) -> Settings:
    """The settings of the repository, with some of one's own."""
    return load_settings("local", assignments)


def no_spark() -> SparkSession:
    """In the place of a session, where none must be started."""
    raise AssertionError("Spark was asked for")


def a_context(
    lake: Path, start_spark: Callable[[], SparkSession] = no_spark, *assignments: str, run_id: str = "r"
) -> Context:
    """What a run needs on a lake."""
    result = RunResult(run_id, "run", str(lake), None, datetime.now(UTC))
    return Context(start_spark, settings(*assignments), Lake(str(lake)), run_id, result, Steps())


def instant(text: str) -> datetime:
    """A time in UTC as frames hold it: without zone."""
    return datetime.fromisoformat(text).replace(tzinfo=None)


def records(spark: SparkSession, *raw: str, file_id: int = 1) -> DataFrame:
    """Records of one file; the first is line 2."""
    rows = [(file_id, FILE_TIME, number, 1 + text.count("\n"), text) for number, text in enumerate(raw, start=2)]
    return spark.createDataFrame(rows, RECORD_SCHEMA)


def fields(spark: SparkSession, header: Sequence[str], *raw: str, contract: Contract | None = None) -> list[Any]:
    """The records' fields in the contract's order (streams, if none is given), after `structure`."""
    contract = contract or load_contract(Dataset.STREAMS)
    frame = split_fields(records(spark, *raw), contract, tuple(header))
    return [tuple(row) for row in frame.orderBy("line_number").select("structure", *contract.names).collect()]


def checked(
    spark: SparkSession,
    dataset: Dataset,
    *raw: str,
    header: Sequence[str] | None = None,
    own: Settings | None = None,
    decomposed: bool = False,
) -> Checked:
    """Checked records of one file."""
    contract = load_contract(dataset)
    parsed = split_fields(records(spark, *raw), contract, tuple(header or HEADERS[dataset]))
    return check(parsed, contract, own or settings(), decomposed=decomposed)
