import pytest
from pyspark.sql import SparkSession

from spark_app.errors import UsageError
from spark_app.spark.session import FOR_LITTLE_DATA, _use_no_language, build_session, plans_for, plans_for_a_pass


def test_java_has_no_language_whatever_it_had(spark: SparkSession) -> None:
    locale = spark._jvm.java.util.Locale  # type: ignore[union-attr]
    locale.setDefault(locale.forLanguageTag("tr-TR"))
    assert build_session(retention_days=30) is not None
    assert str(locale.getDefault()) == ""


@pytest.mark.parametrize("name", ["sun.jnu.encoding", "file.encoding"])
def test_java_that_can_not_name_every_file_is_refused(spark: SparkSession, name: str) -> None:
    system = spark._jvm.java.lang.System  # type: ignore[union-attr]
    before = system.getProperty(name)
    system.setProperty(name, "ANSI_X3.4-1968")
    try:
        with pytest.raises(UsageError, match=r"ANSI_X3\.4-1968.*set LC_ALL=C\.UTF-8"):
            _use_no_language(spark)
    finally:
        system.setProperty(name, before)


def test_plans_suit_the_data_and_the_session_is_then_as_before(spark: SparkSession) -> None:
    names = list(FOR_LITTLE_DATA)
    before = [spark.conf.get(name) for name in names]
    with plans_for(spark, rows=1000, data_bytes=1_000_000):
        assert {name: spark.conf.get(name) for name in names} == FOR_LITTLE_DATA
        with plans_for_a_pass(spark):
            assert spark.conf.get("spark.sql.codegen.wholeStage") == "true"
        assert {name: spark.conf.get(name) for name in names} == FOR_LITTLE_DATA
    with plans_for(spark, rows=100_000, data_bytes=15_000_000):
        assert spark.conf.get("spark.sql.adaptive.enabled") == "false"
        assert spark.conf.get("spark.sql.shuffle.partitions") == "2"
    with plans_for(spark, rows=50_000_000):
        assert spark.conf.get("spark.sql.shuffle.partitions") == "101"
    with plans_for(spark, data_bytes=10**9):
        assert [spark.conf.get(name) for name in names] == before
    assert [spark.conf.get(name) for name in names] == before
