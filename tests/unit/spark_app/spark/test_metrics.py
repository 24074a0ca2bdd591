"""What Spark is asked about its own work, and what that work costs."""

import logging
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from spark_app.config.settings import load_settings
from spark_app.log import Steps
from spark_app.spark.metrics import StageMeter, Worker, cost_estimate, cost_so_far, gib, workers_of


def test_a_step_tells_the_bytes_that_its_stages_moved(spark: SparkSession, tmp_path: Path) -> None:
    steps = Steps()
    meter = StageMeter(spark)
    meter()
    steps.meter = meter
    target = str(tmp_path / "table")
    with steps.step("write"):
        spark.range(10_000, numPartitions=2).repartition(1).write.parquet(target)
    with steps.step("read"):
        spark.read.parquet(target).collect()
    with steps.step("rest"):
        pass
    write, read, rest = steps.as_json()
    size = sum(path.stat().st_size for path in Path(target).glob("*.parquet"))
    assert write["output_bytes"] == size
    assert write["shuffle_bytes"] > 0
    assert write["cpu_seconds"] > 0
    assert read["input_bytes"] > 0
    assert read["output_bytes"] == 0
    assert {name: rest[name] for name in rest if name.endswith("bytes")} == dict.fromkeys(
        ("input_bytes", "output_bytes", "shuffle_bytes", "spilled_bytes"), 0
    )


def test_in_local_mode_the_driver_is_the_only_worker(spark: SparkSession) -> None:
    (driver,) = workers_of(spark, datetime.now(UTC))
    assert driver.vcpu == 2
    assert driver.memory_gb == pytest.approx(3 + 384 / 1024)
    assert driver.seconds > 0


def test_workers_are_billed_by_time_and_size_for_at_least_a_minute() -> None:
    settings = load_settings("local", ["usd_per_vcpu_hour=0.05", "usd_per_gb_hour=0.01"])
    cost = cost_estimate([Worker(4, 16, 3600), Worker(4, 16, 1800), Worker(2, 8, 1)], settings)
    vcpu, memory = 4 + 2 + 2 / 60, 16 + 8 + 8 / 60
    assert cost == {
        "workers": 3,
        "vcpu_hours": round(vcpu, 6),
        "gb_hours": round(memory, 6),
        "usd": round(0.05 * vcpu + 0.01 * memory, 6),
    }


@pytest.mark.parametrize(("size", "expected"), [("3g", 3), ("512m", 0.5), ("2048", 2), ("1T", 1024), ("4gb", 4)])
def test_sizes_are_read_as_spark_writes_them(size: str, expected: float) -> None:
    assert gib(size) == expected


def test_what_is_no_size_is_named() -> None:
    with pytest.raises(ValueError, match="3 gigabytes"):
        gib("3 gigabytes")


def test_a_spark_that_does_not_tell_its_work_fails_no_step(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As where the status store has other methods: py4j then raises an error of its own."""
    settings, steps = load_settings("local"), Steps()
    monkeypatch.setattr(spark.sparkContext, "_jsc", None)
    monkeypatch.setattr(logging.getLogger("music_kpis"), "propagate", True)
    steps.meter = StageMeter(spark)
    with steps.step("first"), steps.step("second"):
        pass
    assert [set(step) for step in steps.as_json()] == [{"name", "seconds"}] * 2
    assert cost_so_far(spark, settings) is None
    assert len({record.message for record in caplog.records if "does not tell it" in record.message}) == 2
