from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from spark_app.spark import kept_frames
from spark_app.spark.kept_frames import KeptFrames
from spark_app.spark.session import is_local


def test_on_a_cluster_rows_are_kept_in_files(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_local(spark.sparkContext)
    monkeypatch.setattr(kept_frames, "is_local", lambda _: False)
    with KeptFrames(str(tmp_path / "scratch")) as kept:
        frame = kept.keep(spark.range(3))
    assert [path for path in tmp_path.rglob("rdd-*/part-*") if path.stat().st_size]
    assert "Range" not in frame._jdf.queryExecution().toString()
    assert sorted(row["id"] for row in frame.collect()) == [0, 1, 2]
