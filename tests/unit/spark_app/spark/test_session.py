from typing import Any

from py4j.java_gateway import JavaClass
from pyspark.sql import SparkSession

from spark_app.spark.session import build_session


def test_functions_are_looked_up_in_java_once(spark: SparkSession) -> None:
    jvm: Any = build_session(retention_days=30)._jvm
    assert jvm is spark._jvm
    assert jvm.functions.col is jvm.functions.col
    assert isinstance(jvm.functions._of_java, JavaClass), "one session, taken twice, has its names looked up twice"
