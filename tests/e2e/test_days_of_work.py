"""The life of a pipeline, run by run: each test goes on with what the one before it left."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from kpi_common.files import open_lake
from kpi_pipeline.export.reader import read_export, read_receipt
from kpi_pipeline.redshift.validate import validate
from kpi_pipeline.settings import RedshiftSettings
from spark_app.lake.lock import lake_lock
from tests.e2e.conftest import Source
from tests.e2e.pipeline import Mailbox, Pipeline, differences
from tests.support.dynamodb_proxy import FaultyDynamoDB, TokenBucket
from tests.support.http_proxy import HttpProxy
from tests.support.postgres import Postgres
from tests.support.prometheus import expected_panels, needs_prometheus, panels_and_alerts
from tests.support.redshift import data_api, run_in_postgres
from tools.airflow_runs import kill_group
from tools.emulated_aws import EmulatedAws

CORRECTED = 20
DAY_TASKS = (
    "read_settings",
    "wait_for_streams",
    "claim_files",
    "validate_inputs",
    "build_job",
    "run_spark_app",
    "prepare_delivery",
    "write_to_dynamodb",
    "verify_dynamodb",
    "mark_as_processed",
    "archive_files",
    "prepare_redshift",
    "load_redshift",
    "done",
    "clean_up",
)


@pytest.fixture(scope="module")
def pipeline(aws: EmulatedAws, mailbox: Mailbox, source: Source, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    folder = tmp_path_factory.mktemp("days")
    own = {"job_environment": "local", "metrics_textfile_dir": str(folder), "metrics_log_group": "/kpis"}
    made = Pipeline(aws, mailbox, folder, "days", variables={"music_streaming_pipeline": json.dumps(own)})
    made.put_folder(source.folder)
    made.put("streams/corrected.csv", source.listens(CORRECTED, 910_000))
    made.put("streams/broken.csv", [("?", "?", "never")] * 12)
    return made


REDSHIFT = {"redshift_workgroup": "kpis", "redshift_database": "d", "redshift_copy_role": "default"}


@pytest.fixture
def redshift(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a Redshift, for this process too."""
    with pipeline.environment(), Postgres() as postgres, data_api(run_in_postgres(postgres.script)) as server:
        postgres.sql("CREATE DOMAIN super AS jsonb")
        monkeypatch.setenv("AWS_ENDPOINT_URL_REDSHIFT_DATA", server.url)
        yield server.url


@pytest.fixture(scope="module")
def before() -> dict[str, int]:
    """Listens of each day after the test before."""
    return {}


@pytest.mark.quick
def test_first_run(pipeline: Pipeline, mailbox: Mailbox, source: Source, before: dict[str, int], redshift: str) -> None:
    good = {f"streams/{path.name}" for path in (source.folder / "streams").iterdir()} | {"streams/corrected.csv"}
    mailbox.take()
    run = pipeline.run(REDSHIFT, {"AWS_ENDPOINT_URL_REDSHIFT_DATA": redshift})
    assert run.state == "success", run.log[-4000:]
    assert {task: run.states()[task] for task in DAY_TASKS} == dict.fromkeys(DAY_TASKS, "success")
    assert run.states()["mark_failed"] == "skipped"

    assert differences(pipeline) == []
    validated = validate(open_lake(f"s3://{pipeline.bucket}/lake"), RedshiftSettings(**REDSHIFT))
    assert (validated.problems, validated.rows > 0) == ([], True)
    assert pipeline.jobs() == ["SUCCESS"]
    ledger = pipeline.ledger()
    rejected = {name for name, entry in ledger.items() if entry.status == "rejected"}
    assert "streams/broken.csv" in rejected
    assert {name for name, entry in ledger.items() if entry.status == "success"} >= good - rejected
    assert ledger["streams/corrected.csv"].rows == CORRECTED
    archived = {f"streams/{key.split('/', 2)[2]}" for key in pipeline.keys("archive")}
    assert archived == good - rejected
    assert pipeline.keys("raw/streams") == []
    assert pipeline.keys("raw/songs"), "reference data stays"
    assert pipeline.keys("intermediate") == []
    before.update(pipeline.listens())


@pytest.mark.quick
def test_a_bad_file_among_good_ones_is_set_aside_with_its_reason(pipeline: Pipeline, mailbox: Mailbox) -> None:
    (key,) = [key for key in pipeline.keys("rejected") if key.endswith("/broken.csv")]
    reason = json.loads(pipeline.read(f"rejected/{key}.reason.json"))
    assert reason["name"] == "streams/broken.csv"
    assert reason["reason"].startswith("too_many_quarantined")
    assert reason["samples"]
    ((subject, text),) = mailbox.take()
    assert "rejected" in subject
    assert "streams/broken.csv: too_many_quarantined" in text


@pytest.mark.quick
def test_its_figures_are_in_a_text_file_and_in_cloudwatch(pipeline: Pipeline, aws: EmulatedAws) -> None:
    (key,) = [key for key in pipeline.keys("lake/runs") if key.endswith("/result.json")]
    result = json.loads(pipeline.read(f"lake/runs/{key}"))
    lines = "".join(path.read_text() for path in sorted(pipeline.folder.glob("*.prom"))).splitlines()
    found = {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}
    lake = f'lake="s3://{pipeline.bucket}/lake"'
    assert found[f"music_kpis_run_succeeded{{{lake}}}"] == 1
    streams = result["totals_by_dataset"]["streams"]
    for outcome in ("valid", "duplicates", "quarantined", "waiting"):
        assert found[f'music_kpis_rows{{dataset="streams",{lake},outcome="{outcome}"}}'] == streams[outcome]
    for outcome, count in result["totals"]["files"].items():
        assert found[f'music_kpis_files{{{lake},outcome="{outcome}"}}'] == count
    hourly = len(pipeline.items("HourlyKPIs"))
    assert found[f'music_kpis_items{{{lake},outcome="put",table="HourlyKPIs"}}'] == hourly
    assert found[f"music_kpis_complete_through_timestamp_seconds{{{lake}}}"] > 0
    events = aws.client("logs").filter_log_events(logGroupName="/kpis")["events"]
    documents = [json.loads(event["message"]) for event in events]
    assert [one["job_seconds"] for one in documents if "job_seconds" in one] == [result["seconds"]]


@needs_prometheus
def test_dashboard_and_rules_say_what_its_result_says(pipeline: Pipeline, tmp_path: Path) -> None:
    (key,) = [key for key in pipeline.keys("lake/runs") if key.endswith("/result.json")]
    result = json.loads(pipeline.read(f"lake/runs/{key}"))
    with pipeline.environment():
        lake = open_lake(f"s3://{pipeline.bucket}/lake")
        export, receipt = read_export(lake, result["run_id"]), read_receipt(lake, result["run_id"])
    assert export.complete_through is not None
    shown, firing = panels_and_alerts(pipeline.folder, tmp_path)
    billed = pipeline.aws.jobs(pipeline.application)[0]["billedResourceUtilization"]
    assert shown == expected_panels(result, receipt, export.complete_through, f"s3://{pipeline.bucket}/lake", billed)
    assert firing == {"MusicKpisFilesRejected"}


def test_nothing_new_is_skipped(pipeline: Pipeline, mailbox: Mailbox, before: dict[str, int]) -> None:
    run = pipeline.run()
    assert run.state == "success", run.log[-4000:]
    states = run.states()
    assert states["claim_files"] == "skipped"
    assert {states[task] for task in DAY_TASKS[3:]} == {"skipped"}
    assert pipeline.jobs() == ["SUCCESS"]
    assert pipeline.listens() == before
    assert mailbox.take() == []


def test_a_late_file_and_a_corrected_one(pipeline: Pipeline, source: Source, before: dict[str, int]) -> None:
    old = source.listens(CORRECTED, 910_000)
    pipeline.put("streams/corrected.csv", [*old[:12], *source.listens(3, 930_000)])
    pipeline.put("streams/late.csv", source.listens(15, 950_000))
    run = pipeline.run()
    assert run.state == "success", run.log[-4000:]
    now = pipeline.listens()
    assert now == {**before, source.day: before[source.day] - 8 + 3 + 15}
    assert differences(pipeline) == []
    corrected = [key for key in pipeline.keys("archive") if "/corrected" in key]
    assert len(corrected) == 2, "both contents are kept"
    before.update(now)


def test_a_failing_job_is_told_and_its_files_stay(
    pipeline: Pipeline, mailbox: Mailbox, source: Source, before: dict[str, int], aws: EmulatedAws
) -> None:
    for number in range(6):
        pipeline.put(f"streams/next-{number}.csv", source.listens(5, 970_000 + 10 * number))
    topic = aws.client("sns").create_topic(Name="alerts")["TopicArn"]
    queue = aws.client("sqs").create_queue(QueueName="alerts")["QueueUrl"]
    arn = aws.client("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    aws.client("sns").subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
    # Somebody else holds the lake's lock: a real failure of the job, with a reason of the application's own.
    with pipeline.environment(), lake_lock(f"s3://{pipeline.bucket}/lake", "another-run", 6, 0):
        run = pipeline.run({"job_settings": {"lock_wait_seconds": "1"}, "alert_topic_arn": topic})

    assert run.state == "failed"
    assert run.states()["run_spark_app"] == "failed"
    assert run.states()["mark_failed"] == "success"
    assert pipeline.jobs()[-2:] == ["FAILED", "FAILED"], "it was tried again, as a job of its own"
    assert pipeline.keys("raw/streams") == [f"next-{number}.csv" for number in range(6)]
    ledger = pipeline.ledger()
    assert {ledger[f"streams/next-{number}.csv"].status for number in range(6)} == {"failed"}, "the next run takes them"
    ((subject, text),) = mailbox.take()
    assert "failed: run_spark_app" in subject
    assert "streams/next-3.csv" in text
    assert "in use by run another-run" in text, "the reason"
    assert f"logs/emr/applications/{pipeline.application}/jobs/" in text
    assert "in use by run another-run" in run.log, "and in the task's log"
    (message,) = aws.client("sqs").receive_message(QueueUrl=queue, WaitTimeSeconds=2)["Messages"]
    assert "streams/next-3.csv" in json.loads(message["Body"])["Message"]
    assert pipeline.listens() == before


def test_the_next_run_takes_them_through_throttling_and_dies_while_it_archives(
    pipeline: Pipeline, mailbox: Mailbox, source: Source, before: dict[str, int], aws: EmulatedAws
) -> None:
    throttled = FaultyDynamoDB(aws.dynamodb.url, TokenBucket(items_a_second=90, burst=5))
    deleted: list[str] = []

    def die_at_the_third(method: str, path: str) -> None:
        if method == "DELETE" and "/raw/streams/" in path:
            deleted.append(path)
            if len(deleted) == 3:
                kill_group(process)

    with throttled, HttpProxy(aws.url, die_at_the_third) as s3:
        endpoints = {"AWS_ENDPOINT_URL_S3": s3.url, "AWS_ENDPOINT_URL_DYNAMODB": throttled.url}
        airflow = pipeline.airflow(endpoints)
        process = airflow.start_run()
        process.wait(600)
    assert len(deleted) >= 3, airflow.log.read_text()[-4000:]
    assert throttled.count("BatchWriteItem") > 3, "some were refused"
    assert pipeline.jobs()[-1] == "SUCCESS"
    now = pipeline.listens()
    assert now == {**before, source.day: before[source.day] + 30}
    left = pipeline.keys("raw/streams")
    assert left, "it died in the middle"
    before.update(now)

    jobs = pipeline.jobs()
    run = pipeline.run()
    assert run.state == "success", run.log[-4000:]
    assert run.states()["run_spark_app"] == "skipped"
    assert pipeline.jobs() == jobs, "no job is paid for"
    assert pipeline.keys("raw/streams") == []
    names = [key.rpartition("/")[2] for key in pipeline.keys("archive")]
    assert sorted(name for name in names if name.startswith("next-")) == [f"next-{number}.csv" for number in range(6)]
    assert differences(pipeline) == []
    assert mailbox.take() == []


def test_maintenance_compacts_the_lake_and_changes_no_figure(pipeline: Pipeline, mailbox: Mailbox) -> None:
    before = {name: len(pipeline.keys(f"lake/{name}")) for name in ("staged/streams", "kpis/hourly")}
    run = pipeline.airflow().run_dag({"quarantine_days": 1}, "music_streaming_maintenance")
    assert run.state == "success", run.log[-4000:]
    assert set(run.states().values()) == {"success"}
    assert pipeline.jobs()[-1] == "SUCCESS"
    after = {name: len(pipeline.keys(f"lake/{name}")) for name in before}
    assert all(after[name] > before[name] for name in before), "merged files stand beside the old ones, for a while"
    assert differences(pipeline) == []
    assert mailbox.take() == []
