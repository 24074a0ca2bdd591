"""Spark options as EMR Serverless takes them."""

import shlex
from pathlib import Path

import pytest

from kpi_common.errors import UsageError
from kpi_pipeline.emr.request import as_submit_parameters, spark_properties


def test_the_options_for_emr_name_what_is_in_the_image() -> None:
    properties = spark_properties("emr")
    assert properties["spark.sql.extensions"] == "io.delta.sql.DeltaSparkSessionExtension"
    assert all(jar.startswith("/usr/share/aws/delta/lib/") for jar in properties["spark.jars"].split(","))
    assert properties["spark.delta.logStore.s3.impl"] == "io.delta.storage.S3DynamoDBLogStore"
    assert "/usr/share/aws/delta/lib/delta-storage-s3-dynamodb.jar" in properties["spark.jars"].split(",")
    python = "/opt/music-streaming-kpis/bin/python"
    assert properties["spark.emr-serverless.driverEnv.PYSPARK_PYTHON"] == python
    assert properties["spark.executorEnv.PYSPARK_PYTHON"] == python


def test_options_survive_being_split_as_a_shell_does() -> None:
    given = {"spark.a": "1", "spark.driver.extraJavaOptions": "-Dx=1 -Dy=2"}
    words = shlex.split(as_submit_parameters(given))
    assert words == ["--conf", "spark.a=1", "--conf", "spark.driver.extraJavaOptions=-Dx=1 -Dy=2"]


def test_a_quote_is_refused() -> None:
    with pytest.raises(UsageError, match=r"spark\.a: a quote"):
        as_submit_parameters({"spark.a": "it's"})


def test_a_line_without_a_value_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "spark").mkdir()
    (tmp_path / "spark" / "emr.conf").write_text("# fine\nspark.jars\n", "utf-8")
    monkeypatch.setenv("MUSIC_KPIS_CONF_DIR", str(tmp_path))
    with pytest.raises(UsageError, match=r"'spark\.jars': expected a name and a value"):
        spark_properties("emr")


def test_an_environment_without_options_is_refused() -> None:
    with pytest.raises(UsageError, match=r"nowhere\.conf"):
        spark_properties("nowhere")
