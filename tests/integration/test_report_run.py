"""What is reported of a run, from what its job and its delivery left in S3, DynamoDB aside: moto's server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest

from kpi_common.aws import shared_s3_client
from kpi_pipeline import steps
from kpi_pipeline.settings import load_pipeline_settings
from spark_app.run.result import RunResult
from tests.support.moto_server import moto_server
from tools.dynamodb_local import CREDENTIALS

BUCKET, RUN_ID = "reported", "manual__1"
ROLE = "arn:aws:iam::123456789012:role/x"
DELIVERED = steps.Delivered(export="r1", export_seq=1, complete_through="2024-06-25T10:00:00Z", dates=["2024-06-25"])


@pytest.fixture(scope="module")
def aws() -> Iterator[str]:
    with moto_server() as address:
        yield address


@pytest.fixture
def application(aws: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The id of an application of EMR; the environment leads to it."""
    values = {"AWS_ENDPOINT_URL": aws, "AWS_REGION": CREDENTIALS["region_name"]}
    for name, value in (values | {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}).items():
        monkeypatch.setenv(name, value)
    shared_s3_client.cache_clear()
    emr = boto3.client("emr-serverless", endpoint_url=aws, **CREDENTIALS)
    yield emr.create_application(name="a", releaseLabel="emr-7.14.0", type="SPARK")["applicationId"]
    shared_s3_client.cache_clear()


@pytest.fixture
def job(aws: str, application: str) -> steps.SparkJob:
    """A job that EMR knows, its result, and the receipt of its export."""
    emr = boto3.client("emr-serverless", endpoint_url=aws, **CREDENTIALS)
    driver: Any = {"sparkSubmit": {"entryPoint": "x"}}
    started = emr.start_job_run(applicationId=application, executionRoleArn=ROLE, clientToken="t", jobDriver=driver)
    s3: Any = boto3.client("s3", endpoint_url=aws, **CREDENTIALS)
    with suppress(s3.exceptions.BucketAlreadyOwnedByYou):
        s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": CREDENTIALS["region_name"]})
    table = {"put": 3, "deleted": 0, "unchanged": 4, "requests": 2, "retries": 1}
    receipt = {"schema_version": 1, "run_id": "r1", "export_seq": 1, "delivered_at": "2024-06-25T12:00:00Z"}
    receipt |= {"seconds": 0.5, "dates": 1, "tables": {"HourlyKPIs": table}, "undeliverable": []}
    for name, content in (("runs/r1/result.json", _result()), ("exports/r1/delivered.json", receipt)):
        s3.put_object(Bucket=BUCKET, Key=f"lake/{name}", Body=json.dumps(content).encode())
    return steps.SparkJob(job_id=started["jobRunId"], log="", result=f"s3://{BUCKET}/lake/runs/r1/result.json")


def _result() -> dict[str, Any]:
    """A result as the application writes it, with 200 listens, 10 of them quarantined."""
    begun = datetime(2024, 6, 25, 11, tzinfo=UTC)
    result = RunResult("r1", "run", f"s3://{BUCKET}/lake", None, begun, quality={"streams": {"rows": 250}})
    content = result.as_json(datetime(2024, 6, 25, 12, tzinfo=UTC), [{"name": "stage", "seconds": 2.5}])
    counts = {"rows": 200, "valid": 190, "duplicates": 0, "quarantined": 10, "waiting": 0, "unknown_users": 0}
    counts |= {"quarantined_by_reason": {"invalid_user_id": 10}}
    files = {"accepted": 1, "rejected": 1}
    return {**content, "totals": {"files": files, **counts}, "totals_by_dataset": {"streams": counts}}


def _settings(application: str, tmp_path: Path, **given: Any) -> dict[str, Any]:
    needed = {"bucket_name": BUCKET, "emr_application_id": application, "execution_role_arn": ROLE}
    return load_pipeline_settings({**needed, "metrics_textfile_dir": str(tmp_path), **given}.get).to_json()


def test_figures_of_job_and_delivery_and_an_alert_of_what_is_unusual(
    application: str, job: steps.SparkJob, tmp_path: Path
) -> None:
    before = [{"event": "succeeded", "quarantined": 0.001, "waiting": 0.0}] * 5
    kept, alert = steps.report_run(_settings(application, tmp_path), RUN_ID, job, DELIVERED, before, succeeded=True)
    assert kept == {"event": "succeeded", "run_id": RUN_ID, "quarantined": 0.05, "waiting": 0.0}
    assert alert is not None
    assert alert.kind == "unusual_run"
    assert "Quality: 76 of 100 rows read are good; expected are 90." in alert.text
    assert "Share of quarantined rows: 5.00%; usual are 0.00% to 0.60%." in alert.text
    text = "".join(path.read_text() for path in tmp_path.glob("*.prom"))
    lake = f'lake="s3://{BUCKET}/lake"'
    for line in (
        f'music_kpis_rows{{dataset="streams",{lake},outcome="quarantined"}} 10.0',
        f'music_kpis_files{{{lake},outcome="rejected"}} 1.0',
        f'music_kpis_step_seconds{{{lake},step="stage"}} 2.5',
        f'music_kpis_items{{{lake},outcome="put",table="HourlyKPIs"}} 3.0',
        f'music_kpis_throttled_requests{{{lake},table="HourlyKPIs"}} 1.0',
        f'music_kpis_vcpu_hours{{{lake},source="billed"}}',
    ):
        assert line in text


def test_a_failed_run_reports_that_and_nothing_unusual(application: str, job: steps.SparkJob, tmp_path: Path) -> None:
    kept, alert = steps.report_run(_settings(application, tmp_path), RUN_ID, job, None, [], succeeded=False)
    assert (kept, alert) == ({"event": "failed", "run_id": RUN_ID}, None)
    assert (
        f'music_kpis_run_succeeded{{lake="s3://{BUCKET}/lake"}} 0.0' in (tmp_path / "music_kpis_run.prom").read_text()
    )
    assert not (tmp_path / "music_kpis_success.prom").exists()


def test_no_trouble_of_monitoring_fails_a_run(application: str, job: steps.SparkJob, tmp_path: Path) -> None:
    broken = _settings(
        application,
        tmp_path,
        metrics_textfile_dir="/proc/no/such/folder",
        metrics_pushgateway="http://127.0.0.1:1",
        metrics_log_group="not a name of a group: %",
    )
    gone = steps.Delivered(export="gone", export_seq=1, complete_through=None, dates=[])
    nowhere = steps.SparkJob(job_id="gone", log="", result=f"s3://{BUCKET}/lake/runs/gone/result.json")
    for known in (job, nowhere):
        kept, _ = steps.report_run(broken, RUN_ID, known, gone, [], succeeded=True)
        assert kept["event"] == "succeeded"
