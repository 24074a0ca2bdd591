import pytest
from pyspark.sql import SparkSession

from spark_app.errors import UsageError
from spark_app.spark.session import _use_no_language, build_session


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
