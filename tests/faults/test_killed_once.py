"""The quick part: the application is killed, and a run in this process takes up what it left."""

from __future__ import annotations

import pytest
from pyspark.sql import SparkSession

from tests.faults.conftest import Tell
from tests.faults.content import LEDGER, LakeSnapshot
from tests.faults.harness import SETTINGS, Plan, Workplace
from tests.faults.sample import Sample
from tests.integration.application import COUNTS, Application, differences
from tests.oracle import Oracle

pytestmark = pytest.mark.integration
# All files are staged and not settled. (Recovery once forgot how many listens waited for their songs.)
STAGED = (Plan("ops/state.json settle: inside"),)
# All are judged, so that each is tried apart from the others next time. Then the third, of listens, is staged.
TWICE = (Plan("ops/state.json open: inside"), Plan("ops/state.json settle: inside", nth=3))


@pytest.mark.parametrize("plans", [STAGED, pytest.param(TWICE, marks=pytest.mark.long)], ids=["once", "twice"])
def test_killed_and_taken_up(
    spark: SparkSession, place: Workplace, sample: Sample, tell: Tell, plans: tuple[Plan, ...]
) -> None:
    """Each figure and the fate of each row are those of the independent engine, which nobody disturbed."""
    for number, plan in enumerate(plans):
        place.break_off(["run", "--input", str(sample.first)], f"killed.t{number}", plan)
    application = Application(spark, sample.first, place.lake, {name: str(value) for name, value in SETTINGS.items()})
    assert application.run() == 0
    expected = Oracle().run(sample.first)
    files = [dict(zip(LEDGER, fate, strict=True)) for fate in LakeSnapshot(place.lake).fates()]
    found = {file["name"]: (file["status"], *(file[count] for count in COUNTS)) for file in files}
    wanted = {
        name: (fate.outcome, *(str(getattr(fate, count)) for count in COUNTS)) for name, fate in expected.files.items()
    }
    lines = differences(application.kpis(), expected.tables)
    for plan in plans:
        tell(f"empty lake, {plan.point}", equal=found == wanted and not lines)
    assert found == wanted
    assert lines == []
    assert [check for check in application.result()["audit"] if not check["passed"]] == []
