"""Under Airflow's own scheduler: a run started by a file adopts its job after a kill; one ended by hand leaves none."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError
from urllib.parse import quote

import psutil
import pytest

from spark_app.lake.lock import lake_lock
from tests.e2e.conftest import Source
from tests.e2e.pipeline import Mailbox, Pipeline, differences
from tools.airflow_runs import DAG_ID
from tools.emulated_aws import EmulatedAws
from tools.package import build

CONSUMER = "charts_of_the_day"
PATIENCE_S = 400
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
    package = tmp_path_factory.mktemp("package") / "package"
    build(package)  # what is uploaded, and beside it the DAG of another team
    shutil.copy(Path(__file__).with_name("example_consumer.py"), package / "dags")
    airflow = replace(pipeline.airflow(SCHEDULE="on_arrival", QUEUE_URL=queue), dags=package / "dags")
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
        wait_for("the consumer's run", lambda: airflow.state_of_first_run(CONSUMER) in ("success", "failed"))
    consumer = airflow.first_run(CONSUMER)
    assert consumer is not None
    assert consumer.state == "success", consumer.tasks
    days = {row["listen_date"] for row in pipeline.lake_rows("kpis/hourly")}
    assert sum(task.task == "draw_chart" for task in consumer.tasks) == len(days), "one for each complete day"
    run = airflow.first_run()
    assert run is not None
    assert run.run_id.startswith("asset_triggered__")
    assert run.state == "success", run.tasks
    assert pipeline.jobs() == ["SUCCESS"]
    assert [task.try_number for task in run.tasks if task.task == "run_spark_app"] == [2]
    assert differences(pipeline) == []


@pytest.mark.long
def test_a_run_marked_failed_by_hand_leaves_no_job_to_the_next_one(
    aws: EmulatedAws, mailbox: Mailbox, source: Source, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Its task is deferred, so that no process of Airflow is there to cancel the job: the next run does it."""
    pipeline = Pipeline(aws, mailbox, tmp_path_factory.mktemp("marked"), "marked")
    pipeline.put_folder(source.folder)
    airflow = pipeline.airflow(DEFERRABLE="true")
    runs = f"dags/{DAG_ID}/dagRuns"

    def state(run_id: str) -> str:
        return str(airflow.request("GET", f"{runs}/{quote(run_id)}")["state"])

    def answers() -> bool:
        with suppress(URLError):
            return bool(airflow.request("GET", f"dags/{DAG_ID}"))
        return False

    with airflow.scheduler():
        wait_for("the DAG to be known", airflow.knows_dag)
        wait_for("the API", answers)
        # Somebody else holds the lake, so that the job is not over before the run is.
        with pipeline.environment(), lake_lock(f"s3://{pipeline.bucket}/lake", "another-run", 6, 0):
            first = airflow.request("POST", runs, {"logical_date": None})["dag_run_id"]
            task = f"{runs}/{quote(first)}/taskInstances/run_spark_app"
            wait_for("a deferred task", lambda: airflow.request("GET", task)["state"] == "deferred")
            wait_for("a running job", lambda: pipeline.jobs() == ["RUNNING"])
            airflow.request("PATCH", f"{runs}/{quote(first)}", {"state": "failed"})
            # All that was left is skipped, but the teardown runs: if that succeeds, Airflow calls the run a success.
            wait_for("the run's end", lambda: state(first) in ("failed", "success"))
            assert pipeline.jobs() == ["RUNNING"], "nobody has cancelled it"
        second = airflow.request("POST", runs, {"logical_date": None})["dag_run_id"]
        wait_for("the next run's end", lambda: state(second) in ("success", "failed"))
        assert state(second) == "success", airflow.log.read_text()[-4000:]
    assert pipeline.jobs() == ["CANCELLED", "SUCCESS"]
    assert differences(pipeline) == []
