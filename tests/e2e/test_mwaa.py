"""On the Airflow of MWAA, waiting tasks deferred, the job in the image where Docker has it."""

from __future__ import annotations

import os

import pytest

from tests.e2e.pipeline import Mailbox, Pipeline, differences
from tools.dag_job import IMAGE
from tools.emulated_aws import EmulatedAws
from tools.emulated_jobs import has_image
from tools.main_job import sample_data


@pytest.fixture(scope="module")
def pipeline(aws_with_image: EmulatedAws, mailbox: Mailbox, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    folder = tmp_path_factory.mktemp("mwaa")
    made = Pipeline(aws_with_image, mailbox, folder, "mwaa", "3.0", {"DEFERRABLE": "true"})
    made.put_folder(sample_data())
    return made


def test_a_failed_job_tells_its_reason_deferred_too(pipeline: Pipeline, mailbox: Mailbox) -> None:
    mailbox.take()
    run = pipeline.run({"job_settings": {"max_files": "none"}})
    assert run.state == "failed"
    assert run.states()["run_spark_app"] == "failed"
    assert "KeyError" not in run.log
    ((_, text),) = mailbox.take()
    assert "max_files" in text
    assert "exit code 2" in text
    assert set(pipeline.jobs()) == {"FAILED"}


@pytest.mark.quick
def test_a_run(pipeline: Pipeline) -> None:
    run = pipeline.run()
    assert run.state == "success", run.log[-4000:]
    assert "Pausing task as DEFERRED" in run.log or "deferred" in run.log.lower()
    assert differences(pipeline) == []
    assert pipeline.ledger()["streams/streams_test_export.csv"].status == "rejected"
    *_, command = sorted(pipeline.aws.folder.glob("applications/*/jobs/*/SPARK_DRIVER/command"), key=os.path.getmtime)
    in_image = command.read_text("utf-8").startswith("docker ")
    print(f"the job ran {'in the image' if in_image else 'directly on this machine'}")
    assert in_image == has_image(IMAGE)
