from dataclasses import replace

from chispa import assert_df_equality
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from kpi_common.contracts import Dataset
from spark_app.ingest.file_profile import References, count_by_flags, profile_files
from spark_app.ingest.forgotten_rows import flag_forgotten
from spark_app.ingest.validation import FORGOTTEN, Checked
from spark_app.run.forgotten import Forgotten
from tests.unit.spark_app.builders import checked

TIME = "2024-06-25 10:00:00"
FORGOTTEN_USERS = Forgotten(b"k" * 32).adding([17, 5])
# 5 is forgotten, too, but still staged: a command that was killed has not got so far.
LISTENS = (f"1,t,{TIME}", f"17,t,{TIME}", f"5,t,{TIME}", f"17,,{TIME}", "17,t", f"x,17,{TIME}", f"y,t,{TIME}", "1,17")


def of(spark: SparkSession, dataset: Dataset, *raw: str) -> Checked:
    rows = checked(spark, dataset, *raw)
    users = spark.createDataFrame([(1,), (5,)], "user_id bigint")
    references = References(users=users if dataset is Dataset.STREAMS else None)
    return replace(rows, frame=references.look_up(rows.frame))


def of_fates(rows: Checked) -> DataFrame:
    fate = F.when(F.col("broken_rules") == FORGOTTEN, "forgotten").when(rows.quarantined, "quarantined")
    return rows.frame.select("raw", fate.otherwise("kept").alias("fate"))


def test_rows_of_forgotten_users_are_neither_kept_nor_quarantined(spark: SparkSession) -> None:
    rows = flag_forgotten(of(spark, Dataset.STREAMS, *LISTENS), FORGOTTEN_USERS)
    fates = ["kept", "forgotten", "kept", "forgotten", "forgotten", "forgotten", "quarantined", "forgotten"]
    expected = spark.createDataFrame(list(zip(LISTENS, fates, strict=True)), "raw string, fate string")
    assert_df_equality(of_fates(rows), expected, ignore_row_order=True, ignore_nullable=True)
    kept = spark.createDataFrame([(LISTENS[0],), (LISTENS[2],)], "raw string")
    assert_df_equality(rows.kept.select("raw"), kept, ignore_row_order=True, ignore_nullable=True)
    profile = profile_files(count_by_flags(rows.frame, by_lines=False), rows, by_lines=False)[1]
    assert (profile.rows, profile.kept, profile.forgotten, profile.quarantined) == (8, 2, 5, 1)
    assert (profile.unknown_users, +profile.by_reason) == (0, {"invalid_user_id": 1})


def test_a_users_row_is_known_by_its_user_id_not_by_its_age(spark: SparkSession) -> None:
    raw = ("1,Ann,17,DE,2024-01-01", "17,Bob,30,DE,2024-01-01", "2,Cy,17,DE")
    rows = flag_forgotten(of(spark, Dataset.USERS, *raw), FORGOTTEN_USERS)
    fates = zip(raw, ["kept", "forgotten", "forgotten"], strict=True)
    expected = spark.createDataFrame(list(fates), "raw string, fate string")
    assert_df_equality(of_fates(rows), expected, ignore_row_order=True, ignore_nullable=True)


def test_nobody_forgotten_and_songs_are_left_as_they_are(spark: SparkSession) -> None:
    listens, songs = of(spark, Dataset.STREAMS, *LISTENS), of(spark, Dataset.SONGS, "17,t,Ann,Tune,5,17,pop")
    assert flag_forgotten(listens, Forgotten()) is listens
    assert flag_forgotten(songs, FORGOTTEN_USERS) is songs


def test_neither_key_nor_hash_is_in_the_plan(spark: SparkSession) -> None:
    """What is in a plan is in Spark's event log, too."""
    rows = flag_forgotten(of(spark, Dataset.STREAMS, *LISTENS), FORGOTTEN_USERS)
    plan = str(rows.frame._jdf.queryExecution().toString())
    assert "names(" in plan
    assert "kkkk" not in plan
    assert not any(one in plan for one in FORGOTTEN_USERS.hashes)
