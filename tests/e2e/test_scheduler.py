"""Under Airflow's own scheduler: a run started by a file adopts its job after a kill, and is seen in the UI.

Each test goes on with what the one before it left.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote

import psutil
import pytest

from kpi_pipeline.settings import param_schemas
from spark_app.lake.lock import lake_lock
from tests.e2e.conftest import Source
from tests.e2e.pipeline import Mailbox, Pipeline, differences
from tools.airflow_runs import ASSETS, DAG_ID, Airflow
from tools.browser import BROWSERS, find_browser, get_playwright
from tools.emulated_aws import EmulatedAws
from tools.package import build
from tools.toolchain import BUILD

CONSUMER = "charts_of_the_day"
WATCH = "music_streaming_watch"
TASKS = 17
needs_browser = pytest.mark.skipif(find_browser() is None, reason=f"none of {', '.join(BROWSERS)} is on this machine")
PATIENCE_S = 400
PICTURES = BUILD / "pictures"
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


@pytest.fixture(scope="module")
def pipeline(aws: EmulatedAws, mailbox: Mailbox, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return Pipeline(aws, mailbox, tmp_path_factory.mktemp("killed"), "killed")


@pytest.fixture(scope="module")
def standing(
    pipeline: Pipeline, aws: EmulatedAws, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Airflow, psutil.Process]]:
    """An Airflow that is up and knows the DAGs, and its process."""
    queue = notify_of_arrivals(aws, pipeline.bucket)
    package = tmp_path_factory.mktemp("package") / "package"
    build(package)  # what is uploaded, and beside it the DAG of another team
    shutil.copy(Path(__file__).with_name("example_consumer.py"), package / "dags")
    airflow = replace(pipeline.airflow(SCHEDULE="on_arrival", QUEUE_URL=queue), dags=package / "dags")
    with airflow.scheduler() as scheduler:
        wait_for("the API that knows the DAG", airflow.answers)  # tasks need it as well
        yield airflow, psutil.Process(scheduler.pid)


@pytest.fixture(scope="module")
def airflow(standing: tuple[Airflow, psutil.Process]) -> Airflow:
    """The same without its process."""
    return standing[0]


@pytest.fixture(scope="module")
def page(airflow: Airflow) -> Iterator[Any]:
    """A page of a browser; DAGs are shown as graphs."""
    get_playwright()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1500, "height": 900}, base_url=airflow.url)
        page.set_default_timeout(PATIENCE_S * 1000)
        page.add_init_script("localStorage.setItem('default_dag_view', JSON.stringify('graph'))")
        yield page
        browser.close()


def test_one_job_not_two(pipeline: Pipeline, standing: tuple[Airflow, psutil.Process], source: Source) -> None:
    airflow, scheduler = standing
    pipeline.put_folder(source.folder)  # a message for each streams file
    wait_for("a running job", lambda: pipeline.jobs() == ["RUNNING"])
    children = scheduler.children(recursive=True)
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


def test_another_teams_dag_is_started_with_the_complete_days(pipeline: Pipeline, airflow: Airflow) -> None:
    wait_for("the consumer's run", lambda: airflow.state_of_first_run(CONSUMER) in ("success", "failed"))
    consumer = airflow.first_run(CONSUMER)
    assert consumer is not None
    assert consumer.state == "success", consumer.tasks
    days = {row["listen_date"] for row in pipeline.lake_rows("kpis/hourly")}
    assert sum(task.task == "draw_chart" for task in consumer.tasks) == len(days), "one for each complete day"


def test_the_watch_tells_once_that_no_run_succeeds_for_too_long(airflow: Airflow, mailbox: Mailbox) -> None:
    mailbox.take()

    def watch() -> list[tuple[str, str]]:
        asked = {"logical_date": datetime.now(UTC).isoformat(), "conf": {"alert_success_hours": 0.0001}}
        run_id = airflow.request("POST", f"dags/{WATCH}/dagRuns", asked)["dag_run_id"]
        wait_for("the watch's end", lambda: airflow.state_of_run(WATCH, run_id) in ("success", "failed"))
        assert airflow.state_of_run(WATCH, run_id) == "success"
        return mailbox.take()

    ((subject, text),) = watch()
    assert "no success" in subject
    assert "paused" in text
    assert watch() == [], "the next is due in a day"


# --- what people see: Airflow's UI in a real browser ---


@needs_browser
def test_the_graph_shows_every_task_of_the_run(page: Any, airflow: Airflow) -> None:
    run = airflow.first_run()
    assert run is not None
    page.goto(f"/dags/{DAG_ID}/runs/{quote(run.run_id)}")
    page.locator(".react-flow__node").first.wait_for()
    shown = " ".join(page.locator(".react-flow__node").all_inner_texts()).split()
    assert {task.task for task in run.tasks} <= set(shown)
    assert len({task.task for task in run.tasks}) == TASKS
    page.screenshot(path=PICTURES / "airflow-graph.png")  # the one in docs/


@needs_browser
def test_the_request_for_the_job_is_seen(page: Any, airflow: Airflow, pipeline: Pipeline) -> None:
    run = airflow.first_run()
    assert run is not None
    page.goto(f"/dags/{DAG_ID}/runs/{quote(run.run_id)}/tasks/run_spark_app/rendered_templates")
    page.get_by_text("sparkSubmitParameters").first.wait_for()
    shown = "".join(page.locator("body").inner_text().split())
    manifest = f"s3://{pipeline.bucket}/intermediate/runs/{run.run_id}/manifest.json"
    for part in (
        f"application_id1{pipeline.application}",
        "execution_role_arn1arn:aws:iam::",
        '"executionTimeoutMinutes":',
        '"logUri":',
        '"entryPointArguments":',
        f'"{manifest}"',
        "--confspark.sql.extensions=",
    ):
        assert part in shown


@needs_browser
def test_the_form_has_a_section_for_each_kind_of_setting(page: Any) -> None:
    schemas = param_schemas()
    page.goto(f"/dags/{DAG_ID}")
    page.get_by_role("button", name="Trigger").first.click()
    form = page.get_by_role("dialog")
    for section in dict.fromkeys(schema["section"] for schema in schemas.values()):
        form.get_by_text(section, exact=True).first.click()
        for name, schema in schemas.items():
            if schema["section"] == section:  # one is open at a time
                form.get_by_text(name, exact=True).first.wait_for()
                form.get_by_text(schema["description"], exact=True).first.wait_for()
        if section == "Alerts":
            page.screenshot(path=PICTURES / "airflow-form.png")  # the one in docs/


def test_a_wrong_value_is_refused_before_the_run_starts(airflow: Airflow) -> None:
    with pytest.raises(HTTPError) as refused:
        airflow.request("POST", f"dags/{DAG_ID}/dagRuns", {"logical_date": None, "conf": {"max_executors": 0}})
    assert refused.value.code == 400
    assert "max_executors" in refused.value.read().decode()


@needs_browser
def test_the_assets_are_listed(page: Any) -> None:
    page.goto("/assets")
    for name in ASSETS:
        page.get_by_text(name, exact=True).first.wait_for()


@needs_browser
def test_the_runbook_is_beside_the_dag(page: Any) -> None:
    page.goto(f"/dags/{DAG_ID}")
    page.get_by_role("button", name="Dag Docs").first.click()
    page.get_by_text("Is a rerun safe? Always:").wait_for()
    tables = [" ".join(text.split()) for text in page.locator("table").all_inner_texts()]
    assert any("run_spark_app runs the Spark job, or adopts" in table for table in tables)
    assert any("52, 137 out of memory" in table for table in tables)


@pytest.mark.long
def test_a_run_marked_failed_by_hand_leaves_no_job_to_the_next_one(
    aws: EmulatedAws, mailbox: Mailbox, source: Source, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Its task is deferred, so that no process of Airflow is there to cancel the job: the next run does it."""
    pipeline = Pipeline(aws, mailbox, tmp_path_factory.mktemp("marked"), "marked")
    pipeline.put_folder(source.folder)
    airflow = pipeline.airflow(DEFERRABLE="true")
    runs = f"dags/{DAG_ID}/dagRuns"

    def state(run_id: str) -> str | None:
        return airflow.state_of_run(DAG_ID, run_id)

    with airflow.scheduler():
        wait_for("the API that knows the DAG", airflow.answers)
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
