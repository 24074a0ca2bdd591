"""Under Airflow's own scheduler: a file that arrives starts a run, and a task that is killed adopts its job."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import psutil
import pytest

from tests.e2e.conftest import Source
from tests.e2e.pipeline import Mailbox, Pipeline, differences
from tools.emulated_aws import EmulatedAws

PATIENCE_S = 240
TASK_PROCESS = re.compile(r"airflow worker -- [0-9a-f]{8}-[0-9a-f-]{27}")  # the one that runs the operator


def wait_for(what: str, found: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not found():
        assert time.monotonic() < deadline, f"in vain waited for: {what}"
        time.sleep(0.5)


def title_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return ""


def notify_of_arrivals(aws: EmulatedAws, bucket: str) -> str:
    sqs = aws.client("sqs")
    url = sqs.create_queue(QueueName=f"{bucket}-files")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    rules = [{"Name": "prefix", "Value": "raw/streams/"}]
    notice = {"QueueArn": arn, "Events": ["s3:ObjectCreated:*"], "Filter": {"Key": {"FilterRules": rules}}}
    configuration = {"QueueConfigurations": [notice]}
    aws.client("s3").put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration=configuration)
    return str(url)


def test_one_job_not_two(
    aws: EmulatedAws, mailbox: Mailbox, source: Source, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pipeline = Pipeline(aws, mailbox, tmp_path_factory.mktemp("killed"), "killed")
    queue = notify_of_arrivals(aws, pipeline.bucket)
    airflow = pipeline.airflow(SCHEDULE="on_arrival", QUEUE_URL=queue)
    with airflow.scheduler() as scheduler:
        wait_for("the DAG to be known", airflow.knows_dag)
        pipeline.put_folder(source.folder)  # a message for each streams file
        wait_for("a running job", lambda: pipeline.jobs() == ["RUNNING"])
        children = psutil.Process(scheduler.pid).children(recursive=True)
        titles = {process.pid: title_of(process) for process in children}
        victims = [process for process in children if TASK_PROCESS.search(titles[process.pid])]
        assert victims, titles
        for process in victims:
            process.kill()
        wait_for("the run's end", lambda: airflow.state_of_first_run() in ("success", "failed"))
    run = airflow.first_run()
    assert run is not None
    assert run.run_id.startswith("asset_triggered__")
    assert run.state == "success", run.tasks
    assert pipeline.jobs() == ["SUCCESS"]
    assert [task.try_number for task in run.tasks if task.task == "run_spark_app"] == [2]
    assert differences(pipeline) == []
