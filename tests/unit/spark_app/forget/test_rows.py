from datetime import date
from pathlib import Path

from pyspark.sql import SparkSession

from kpi_common.contracts import Dataset
from spark_app.forget.rows import remove_rows
from spark_app.ingest.staged_rows import STREAM_PARTITIONS
from spark_app.run.forgotten import Forgotten
from tests.unit.spark_app.builders import a_context, instant

GONE = 7654321
FORGOTTEN = Forgotten(b"k" * 32).adding([GONE])
MONDAY, TUESDAY, NOON = date(2024, 6, 24), date(2024, 6, 25), instant("2024-06-24 12:00:00")
LISTENS = [(1, 1, "t", NOON, 1, MONDAY), (1, 1, "t", NOON, 1, TUESDAY), (2, 3, "t", NOON, 1, TUESDAY)]
OF_GONE = [(1, GONE, "t", NOON, 1, TUESDAY), (2, GONE, "u", NOON, 2, TUESDAY)]
STREAMS = "file_id int, user_id bigint, track_id string, listen_time timestamp, copies int, listen_date date"
USERS = "file_id int, user_id bigint, user_country string"
QUARANTINE = "file_id int, dataset string, line_number bigint, raw string"
BAD = [(1, "streams", 7, "x,t,y"), (3, "songs", 2, f"{GONE},t,Ann")]


def test_all_rows_of_a_user_go_and_no_others(spark: SparkSession, tmp_path: Path) -> None:
    context = a_context(tmp_path, lambda: spark)
    lake = context.lake
    assert remove_rows(context, FORGOTTEN, dry_run=False) == {}, "no table is there"
    streams, users = lake.staged(Dataset.STREAMS), lake.staged(Dataset.USERS)
    streams.replace(spark.createDataFrame([*LISTENS, *OF_GONE], STREAMS), None, {}, STREAM_PARTITIONS)
    users.replace(spark.createDataFrame([(4, 1, "DE"), (4, GONE, "FR")], USERS), None, {})
    bad = [*BAD, (1, "streams", 9, f"{GONE},t,never"), (4, "users", 3, f"{GONE},Zoe")]
    lake.quarantine.replace(spark.createDataFrame(bad, QUARANTINE), None, {})

    found = remove_rows(context, FORGOTTEN, dry_run=True)
    assert found == {
        "staged/streams": {"2024-06-25": 2},
        "staged/users": {"4": 1},
        "quarantine/records": {"1": 1, "4": 1},
    }
    assert [table.version() for table in (streams, users, lake.quarantine)] == [0, 0, 0]
    assert remove_rows(context, FORGOTTEN, dry_run=False) == found
    assert sorted(tuple(row) for row in streams.read(spark).collect()) == LISTENS
    assert [tuple(row) for row in users.read(spark).collect()] == [(4, 1, "DE")]
    assert sorted(tuple(row) for row in lake.quarantine.read(spark).collect()) == BAD
    assert streams.commit(1).changed_partitions("listen_date") == {"2024-06-25"}
    assert not any(str(GONE) in path.read_text() for path in tmp_path.glob("*/*/_delta_log/*.json"))
    assert remove_rows(context, FORGOTTEN, dry_run=False) == {table: {} for table in found}
