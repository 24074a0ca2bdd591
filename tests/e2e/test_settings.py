"""A setting that is missing is told by the first task."""

import pytest

from tests.e2e.pipeline import Mailbox, Pipeline
from tools.emulated_aws import EmulatedAws


@pytest.mark.quick
def test_the_first_task_names_what_is_missing(
    aws: EmulatedAws, mailbox: Mailbox, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pipeline = Pipeline(aws, mailbox, tmp_path_factory.mktemp("settings"), "settings")
    for name in ("emr_application_id", "execution_role_arn"):
        del pipeline.variables[name]
    run = pipeline.run()
    assert run.state == "failed"
    assert run.states()["read_settings"] == "failed"
    assert "missing: emr_application_id, execution_role_arn. Set an Airflow Variable" in run.log
    assert pipeline.jobs() == []
