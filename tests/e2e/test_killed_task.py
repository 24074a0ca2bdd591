"""The task is killed while its job runs, under Airflow's own scheduler; tried again it adopts the job."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import psutil
import pytest

from tests.e2e.conftest import Source
from tests.e2e.pipeline import Mailbox, Pipeline, differences
from tests.local.airflow_runs import DAG_ID
from tests.local.emulated_aws import EmulatedAws

PATIENCE_S = 240
TASK_PROCESS = re.compile(r"airflow worker -- [0-9a-f]{8}-[0-9a-f-]{27}")  # the one that runs the operator


def wait_for(what: str, found: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not found():
        assert time.monotonic() < deadline, f"in vain waited for: {what}"
        time.sleep(0.5)


def test_one_job_not_two(
    aws: EmulatedAws, mailbox: Mailbox, source: Source, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pipeline = Pipeline(aws, mailbox, tmp_path_factory.mktemp("killed"), "killed")
    pipeline.put_folder(source.folder)
    airflow = pipeline.airflow()
    with airflow.scheduler() as scheduler:
        wait_for("the DAG to be known", airflow.knows_dag)
        airflow.command("dags", "trigger", DAG_ID, "--run-id", "killed-in-the-middle")
        wait_for("a running job", lambda: pipeline.jobs() == ["RUNNING"])
        children = psutil.Process(scheduler.pid).children(recursive=True)
        titles = {process.pid: " ".join(process.cmdline()) for process in children}
        victims = [process for process in children if TASK_PROCESS.search(titles[process.pid])]
        assert victims, titles
        for process in victims:
            process.kill()
        wait_for("the run's end", lambda: airflow.state_of_last_run() in ("success", "failed"))
    run = airflow.last_run()
    assert run is not None
    assert run.state == "success", run.tasks
    assert pipeline.jobs() == ["SUCCESS"]
    assert [task.try_number for task in run.tasks if task.task == "run_spark_app"] == [2]
    assert differences(pipeline) == []
