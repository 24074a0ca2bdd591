"""Java's and Python's rules for the clocks of a zone."""

from collections.abc import Iterator

import pytest
from pyspark.sql import SparkSession

from spark_app.errors import UsageError
from spark_app.spark import time_zones
from spark_app.spark.time_zones import check_time_zones


@pytest.mark.parametrize(
    "zone",
    ["UTC", "Etc/UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "Asia/Kolkata", "Asia/Tehran"],
)
@pytest.mark.usefixtures("spark")
def test_zones_of_which_both_know_the_same_are_fine(zone: str) -> None:
    check_time_zones([zone, "UTC"])


def test_a_zone_with_other_rules_is_refused_with_the_first_instant(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    berlin = time_zones._java_offsets(spark._jvm, "Europe/Berlin")
    assert berlin is not None
    last = max(berlin)
    older = {instant: offset for instant, offset in berlin.items() if instant != last}
    monkeypatch.setattr(time_zones, "_java_offsets", lambda *_: older)
    with pytest.raises(UsageError, match=r"time zone Europe/Berlin: .* from 2060-10-31T01:00:00Z on; update the older"):
        check_time_zones(["Europe/Berlin"])
    monkeypatch.undo()
    monkeypatch.setattr(time_zones, "clock_changes", lambda *_: iter(()))
    with pytest.raises(UsageError, match=r"from 2000-03-26T01:00:00Z on"):
        check_time_zones(["Europe/Berlin"])


@pytest.mark.usefixtures("spark")
def test_a_zone_that_only_python_knows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_changes(*_: object) -> Iterator[object]:
        return iter(())

    monkeypatch.setattr(time_zones, "clock_changes", no_changes)
    with pytest.raises(UsageError, match=r"Europe/Atlantis: Java does not know it, Python does; .* IANA data"):
        check_time_zones(["Europe/Atlantis"])
