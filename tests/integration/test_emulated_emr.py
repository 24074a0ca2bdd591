"""The emulated EMR Serverless: what passes against it must mean something."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from botocore.exceptions import ClientError

from tools.dynamodb_local import DynamoDBLocal
from tools.emulated_aws import ROLE, EmulatedAws
from tools.emulated_jobs import JobRequest, direct_command, image_command

pytestmark = [pytest.mark.integration, pytest.mark.s3]


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory, dynamodb_server: DynamoDBLocal) -> Iterator[EmulatedAws]:
    with EmulatedAws(tmp_path_factory.mktemp("aws"), dynamodb=dynamodb_server) as services:
        s3 = services.client("s3")
        s3.create_bucket(Bucket="jobs", CreateBucketConfiguration={"LocationConstraint": s3.meta.region_name})
        yield services


def start(aws: EmulatedAws, application: str, token: str, *arguments: str, **more: Any) -> str:
    emr = aws.client("emr-serverless")
    submit = {"entryPoint": "local:///opt/music-streaming-kpis/main.py", "entryPointArguments": list(arguments)}
    monitoring = {"s3MonitoringConfiguration": {"logUri": "s3://jobs/logs"}}
    answer = emr.start_job_run(
        applicationId=application,
        clientToken=token,
        executionRoleArn=ROLE,
        name=token,
        jobDriver={"sparkSubmit": submit},
        configurationOverrides={"monitoringConfiguration": monitoring},
        **more,
    )
    return str(answer["jobRunId"])


def wait(aws: EmulatedAws, application: str, job_id: str, *states: str) -> tuple[dict[str, Any], list[str]]:
    emr, seen = aws.client("emr-serverless"), []
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        job = emr.get_job_run(applicationId=application, jobRunId=job_id)["jobRun"]
        if job["state"] not in seen:
            seen.append(job["state"])
        if job["state"] in states:
            return job, seen
        time.sleep(0.05)
    raise AssertionError(f"in vain waited for {states}: {seen}")


def test_a_job_fails_with_the_exit_code_of_the_application(aws: EmulatedAws) -> None:
    application = aws.create_application()
    emr = aws.client("emr-serverless")
    assert emr.get_application(applicationId=application)["application"]["state"] == "CREATED"
    assert emr.list_job_runs(applicationId=application)["jobRuns"] == []
    wrong = ("run", "--input", "s3://jobs/raw", "--lake", "s3://jobs/lake", "--set", "nonsense=1")
    job_id = start(aws, application, "one", *wrong)
    assert start(aws, application, "one", *wrong) == job_id, "the same token is the same job"
    assert emr.get_application(applicationId=application)["application"]["state"] == "STARTED"
    job, seen = wait(aws, application, job_id, "SUCCESS", "FAILED", "CANCELLED")
    assert seen[-2:] == ["RUNNING", "FAILED"]
    assert "ExitCode: 2" in job["stateDetails"]
    assert "nonsense" in job["stateDetails"]
    assert [one["id"] for one in emr.list_job_runs(applicationId=application)["jobRuns"]] == [job_id]
    assert emr.list_job_runs(applicationId=application, states=["RUNNING"])["jobRuns"] == []
    keys = [entry["Key"] for entry in aws.client("s3").list_objects_v2(Bucket="jobs", Prefix="logs/")["Contents"]]
    assert f"logs/applications/{application}/jobs/{job_id}/SPARK_DRIVER/stderr.gz" in keys


def test_a_cancelled_job_is_gone(aws: EmulatedAws) -> None:
    application = aws.create_application()
    emr = aws.client("emr-serverless")
    job_id = start(aws, application, "two", "run", "--input", "s3://jobs/raw", "--lake", "s3://jobs/lake-two")
    wait(aws, application, job_id, "RUNNING")

    def processes() -> list[psutil.Process]:
        return [p for p in psutil.process_iter(["cmdline"]) if "s3://jobs/lake-two" in (p.info["cmdline"] or [])]

    while not processes():
        time.sleep(0.05)
    emr.cancel_job_run(applicationId=application, jobRunId=job_id)
    _, seen = wait(aws, application, job_id, "CANCELLED")
    assert seen[0] in ("CANCELLING", "CANCELLED")
    assert processes() == []
    with pytest.raises(ClientError, match="terminal state CANCELLED"):
        emr.cancel_job_run(applicationId=application, jobRunId=job_id)


def test_jobs_with_the_same_settings_share_a_driver_that_stays_up(
    tmp_path: Path, dynamodb_server: DynamoDBLocal
) -> None:
    with EmulatedAws(tmp_path, dynamodb=dynamodb_server, warm=True) as aws:
        s3 = aws.client("s3")
        s3.create_bucket(Bucket="jobs", CreateBucketConfiguration={"LocationConstraint": s3.meta.region_name})
        application = aws.create_application()

        def drivers() -> list[str]:
            return sorted(path.name for path in (tmp_path / "drivers").iterdir())

        for token in ("one", "two"):
            wrong = ("run", "--input", "s3://jobs/raw", "--lake", "s3://jobs/lake", "--set", f"nonsense_{token}=1")
            job, _ = wait(aws, application, start(aws, application, token, *wrong), "SUCCESS", "FAILED")
            assert "ExitCode: 2" in job["stateDetails"]
            assert f"nonsense_{token}" in job["stateDetails"], "each has logs of its own"
        assert drivers() == ["0"]

        held = ("export", "--lake", "s3://jobs/lake")
        s3.put_object(Bucket="jobs", Key="lake/ops/lake.lock", Body=b'{"lease_seconds": 600}')
        job_id = start(aws, application, "three", *held)
        wait(aws, application, job_id, "RUNNING")
        aws.client("emr-serverless").cancel_job_run(applicationId=application, jobRunId=job_id)
        wait(aws, application, job_id, "CANCELLED")
        commands = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
        assert not any(str(tmp_path / "drivers") in command for command in commands)


def test_parameters_are_handed_on_but_for_what_names_files_of_the_image() -> None:
    parameters = "--conf spark.jars=/usr/share/x.jar --conf spark.executor.cores=4 --conf 'spark.x=a b'"
    parameters += " --conf spark.delta.logStore.s3.impl=X"
    request = JobRequest("local:///opt/x/main.py", ("run", "--lake", "l"), parameters, {"spark.y": "1"})
    command, _ = direct_command(request, {"PATH": "/bin"})
    text = " ".join(command)
    assert "spark.executor.cores=4" in text
    assert "spark.x=a b" in command
    assert "spark.y=1" in command
    assert "/usr/share/x.jar" not in text
    assert "logStore" not in text
    assert command[-3:] == ["run", "--lake", "l"]


def test_the_look_alike_is_asked_for_no_jar_that_only_emr_has() -> None:
    jars = "/d/delta-storage.jar,/d/delta-storage-s3-dynamodb.jar"
    parameters = f"--conf spark.jars={jars} --conf spark.delta.logStore.s3.impl=X"
    command, _ = image_command(JobRequest("local:///opt/x/main.py", (), parameters, {}), {}, "an-image", "a-name")
    assert "spark.jars=/d/delta-storage.jar" in command
    assert not any("logStore" in word for word in command)


@pytest.mark.parametrize(
    ("entry_point", "parameters"), [("s3://jobs/main.py", ""), ("local:///opt/x/main.py", "--jars x.jar")]
)
def test_what_is_not_understood_is_no_success(entry_point: str, parameters: str) -> None:
    with pytest.raises(ValueError, match=r"expected local:///|not understood"):
        direct_command(JobRequest(entry_point, (), parameters), {})
