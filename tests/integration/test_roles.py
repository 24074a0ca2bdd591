"""Roles hold what a whole run uses, and nothing more: its requests to moto's server against conf/aws/*.yaml.

The Spark job is a real spark-submit on S3; the DAG's tasks are called as its file calls them, without Airflow; the API
is asked as Lambda asks it. What a role needs and none of these does here is in UNSEEN, with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from cfnlint.decode import cfn_yaml
from moto.emrserverless.models import emrserverless_backends

from api.handler import handler
from api.store import store
from kpi_common.aws import shared_s3_client
from kpi_pipeline import cli, steps
from kpi_pipeline.emr.request import job_name
from kpi_pipeline.settings import load_pipeline_settings
from tests.faults.harness import Workplace
from tests.support.recorded_aws import ACCOUNT, REGION, Call, Names, Right, recorded_aws, rights_of
from tools.toolchain import ROOT

pytestmark = [pytest.mark.integration, pytest.mark.s3, pytest.mark.long]
BUCKET, PREFIX, DATABASE, LOGS = "music-bucket", "of-a-test-", "music_test", "/music/metrics"
JOB, DAG, API, SET_UP = "JOB", "DAG", "API", "SETUP"
SECRET = f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:"
DAY, GONE = "2024-06-25", 4711
ROLES = {
    JOB: ("template.yaml", ("JobRole", "JobDatabasePolicy", "JobGluePolicy", "JobForgetPolicy")),
    DAG: ("template.yaml", ("DagPolicy", "DagJobPolicy")),
    API: ("kpi_api.yaml", ("Role",)),
}
OPERATOR = (
    "Airflow's provider makes these: SparkJobOperator, the queue's trigger, notifiers; see tests/e2e and tests/dags"
)
# Statement, action ("*": all of it) -> why no request here is of it
UNSEEN = {
    ("CommitsToDeltasLog", "*"): "the log store for several writers is in EMR's own image only",
    ("DecryptsAndEncrypts", "*"): "S3, SQS and SNS ask KMS on the role's behalf",
    ("RegistersTables", "glue:UpdateTable"): "a table whose columns or comments have changed; see test_queries.py",
    ("WritesItsLogs", "*"): "EMR Serverless writes the logs with the job's role, not the job itself",
    ("HandsTheJobItsRole", "*"): "IAM asks for it when a job is started; it is no request",
    ("StartsTheApplication", "emr-serverless:GetApplication"): OPERATOR,
    ("StartsTheApplication", "emr-serverless:StartApplication"): OPERATOR,
    ("StartsTheApplication", "emr-serverless:StartJobRun"): OPERATOR,
    ("StartsTheApplication", "emr-serverless:TagResource"): "asked for when a job with tags is started",
    ("WatchesJobs", "emr-serverless:TagResource"): "asked for when a job with tags is started",
    ("TakesNotifications", "*"): OPERATOR,
    ("SendsAlerts", "*"): OPERATOR,
    ("WriteLogs", "*"): "Lambda writes the function's logs with its role",
}
SONGS = [
    "id,track_id,artists,album_name,track_name,popularity,duration_ms,track_genre",
    "1,t,Ann,Album,Tune,5,1000,pop",
]
USERS = ["user_id,user_name,user_age,user_country,created_at", "1,Ann,30,DE,2024-01-01", f"{GONE},Bo,30,DE,2024-01-01"]
STREAMS = [
    "user_id,track_id,listen_time",
    *(f"1,t,{DAY} 10:00:{second:02}" for second in range(40)),
    f"{GONE},t,{DAY} 11:00:00",
    f"x,t,{DAY} 12:00:00",
]


@dataclass
class Aws:
    """The server, the bucket on it, and a place for the job."""

    address: str
    folder: Path
    patch: pytest.MonkeyPatch
    application: str = ""
    secrets: Mapping[str, str] | None = None

    def environment(self, who: str) -> dict[str, str]:
        keys = {"AWS_ACCESS_KEY_ID": who, "AWS_SECRET_ACCESS_KEY": "any", "AWS_REGION": REGION}
        return {**keys, "AWS_ENDPOINT_URL": self.address, "AWS_DEFAULT_REGION": REGION}

    @contextmanager
    def acting_as(self, who: str) -> Iterator[None]:
        """The environment of this process is that of the role."""
        for name, value in self.environment(who).items():
            self.patch.setenv(name, value)
        shared_s3_client.cache_clear()
        yield
        shared_s3_client.cache_clear()

    def client(self, service: Any) -> Any:
        keys = {"aws_access_key_id": SET_UP, "aws_secret_access_key": "any"}
        return boto3.client(service, endpoint_url=self.address, region_name=REGION, **keys)

    def put(self, name: str, lines: list[str]) -> None:
        self.client("s3").put_object(Bucket=BUCKET, Key=f"raw/{name}", Body="\n".join(lines).encode() + b"\n")

    def set_up(self) -> None:
        where: Any = {"LocationConstraint": REGION}
        self.client("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration=where)
        for name, lines in {"songs/s.csv": SONGS, "users/u.csv": USERS, "streams/a.csv": STREAMS}.items():
            self.put(name, lines)
        self.put("streams/bad.csv", [STREAMS[0], *["?,t,never"] * 5, f"{GONE},t,never"])
        emr = self.client("emr-serverless")
        self.application = emr.create_application(name="a", releaseLabel="emr-7.14.0", type="SPARK")["applicationId"]
        contents = {"forget": "k" * 40, "database": json.dumps({"username": "u", "password": "p"})}
        make = self.client("secretsmanager").create_secret
        self.secrets = {name: make(Name=name, SecretString=text)["ARN"] for name, text in contents.items()}

    def job(self, *command: str, run_id: str, fails: bool = False) -> None:
        """Run the Spark job."""
        assert self.secrets is not None
        place = Workplace(self.folder, self.environment(JOB), f"s3://{BUCKET}/lake", ("delta", "s3"))
        settings = {"forget_key": self.secrets["forget"], "database_secret": self.secrets["database"]}
        process = place.start(list(command), run_id, glue_database=DATABASE, **settings)
        assert (process.wait() == 0) is not fails, process.text[-4000:]

    def run_of_dag(self, run_id: str, settings: dict[str, Any]) -> None:
        """All tasks of music_streaming_pipeline, in its order."""
        with self.acting_as(DAG):
            run = steps.claim_files(settings, run_id, lambda _: None)
            assert run is not None
            assert steps.validate_inputs(run)[0]
            request = steps.build_job(run)
            job_id = self.start(run_id, request)
        command = [str(word) for word in request["job_driver"]["sparkSubmit"]["entryPointArguments"]]
        self.job(*command[: command.index("--manifest") + 2], run_id=run_id)
        job = steps.SparkJob(job_id=job_id, log="", result=f"s3://{BUCKET}/lake/runs/{run_id}/result.json")
        with self.acting_as(DAG):
            groups, _ = steps.prepare_delivery(run, 10)
            delivered, _ = steps.verify_delivery(run, [steps.write_parts(run, group) for group in groups])
            steps.mark_as_processed(run, job)
            steps.archive_files(run, job)
            steps.clean_up(run, done=True)
            steps.report_run(settings, run_id, job, delivered, [], succeeded=True)

    def start(self, run_id: str, request: Mapping[str, Any]) -> str:
        started = self.client("emr-serverless").start_job_run(
            applicationId=self.application,
            executionRoleArn=f"arn:aws:iam::{ACCOUNT}:role/job",
            clientToken=run_id,
            name=job_name(run_id),
            jobDriver=request["job_driver"],
        )
        return str(started["jobRunId"])


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Aws, set[Call]]]:
    """All calls of days of work: two runs, a failed one, maintenance, work by hand, and the API."""
    with recorded_aws() as (address, calls), pytest.MonkeyPatch.context() as patch:
        patch.setenv("MUSIC_KPIS_DYNAMODB_PREFIX", PREFIX)
        aws = Aws(address, tmp_path_factory.mktemp("job"), patch)
        aws.set_up()
        work(aws)
        yield aws, calls
    store.cache_clear()


def work(aws: Aws) -> None:
    needed = {"bucket_name": BUCKET, "emr_application_id": aws.application, "metrics_log_group": LOGS}
    needed |= {"execution_role_arn": f"arn:aws:iam::{ACCOUNT}:role/job", "table_prefix": PREFIX}
    settings = load_pipeline_settings(needed.get).to_json()
    aws.run_of_dag("first", settings)
    lake = f"s3://{BUCKET}/lake"

    aws.job(
        "run", "--input", f"s3://{BUCKET}/raw", "--users", "jdbc:postgresql://127.0.0.1:1/x", run_id="db", fails=True
    )
    folders = [word for name in ("raw", "archive", "rejected") for word in ("--files", f"s3://{BUCKET}/{name}")]
    aws.job("forget-user", str(GONE), *folders, "--rewrite", run_id="forget")
    aws.job("compact", run_id="compact")

    with aws.acting_as(DAG):
        assert cli.main(["deliver", "--lake", lake]) == 0
        assert cli.main(["deliver", "--lake", lake, "--run-id", "first"]) == 0  # which is superseded
        assert cli.main(["read", "--date", DAY]) == 0
        released = ["--source", f"s3://{BUCKET}/raw", "--rejected", f"s3://{BUCKET}/rejected"]
        assert cli.main(["files", "release", "streams/bad.csv", *released]) == 0
        manifest = f"s3://{BUCKET}/intermediate/reingest.json"
        again = ["--source", f"s3://{BUCKET}/raw", "--archive", f"s3://{BUCKET}/archive", "--manifest", manifest]
        assert cli.main(["files", "reingest", *again]) == 0
        assert cli.main(["files", "list"]) == 0
        run = steps.claim_files(settings, "second", lambda _: None)
        assert run is not None
        aws.start("second", steps.build_job(run))
        (*_, second) = emrserverless_backends[ACCOUNT][REGION].job_runs[aws.application]
        second.state = "RUNNING"  # as moto's jobs are over at once, and this one is to be cancelled
        steps.mark_failed(settings, "second", {"run_spark_app": "of a test"}, None)
        assert steps.build_maintenance_job(settings, "weekly") is not None
        steps.delete_old_samples(settings)

    with aws.acting_as(API):
        days = [f"/v1/{kind}/{DAY}" for kind in ("kpis/daily", "kpis/hourly", "countries")]
        assert {ask(path) for path in ("/health", "/v1/genres/pop", f"/v1/top-songs/{DAY}/pop", *days)} == {200}


def ask(path: str) -> int:
    http = {"method": "GET", "path": path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1", "userAgent": "test"}
    event = {"version": "2.0", "rawPath": path, "rawQueryString": "", "headers": {}, "isBase64Encoded": False}
    return int(handler({**event, "requestContext": {"http": http, "stage": "$default"}}, None)["statusCode"])


def rights(aws: Aws, who: str) -> list[Right]:
    assert aws.secrets is not None
    arn = f"{REGION}:{ACCOUNT}"
    application = f"arn:aws:emr-serverless:{arn}:/applications/{aws.application}"
    known = {
        "AWS::Partition": "aws",
        "AWS::Region": REGION,
        "AWS::AccountId": ACCOUNT,
        "AWS::StackName": "music",
        "Bucket.Arn": f"arn:aws:s3:::{BUCKET}",
        "Application.Arn": application,
        "LogTable.Arn": f"arn:aws:dynamodb:{arn}:table/music_streaming_kpis_delta_log",
        "TablePrefix": PREFIX,
        "GlueDatabase": DATABASE,
        "Figures.Arn": f"arn:aws:logs:{arn}:log-group:{LOGS}:*",
        "DatabaseSecretArn": aws.secrets["database"],
        "ForgetKeySecretArn": aws.secrets["forget"],
        **{name: name for name in ("Key.Arn", "JobRole.Arn", "Queue.Arn", "Topic", "FunctionLogs.Arn")},
    }
    file, resources = ROLES[who]
    return rights_of(cfn_yaml.load(str(ROOT / "conf" / "aws" / file)), resources, Names(known))


@pytest.mark.parametrize("who", ROLES)
def test_each_call_of_a_role_is_allowed(recorded: tuple[Aws, set[Call]], who: str) -> None:
    aws, calls = recorded
    allowed = rights(aws, who)
    made = sorted(call for call in calls if call.who == who)
    assert made
    refused = [str(call) for call in made if not any(right.covers(call) for right in allowed)]
    assert not refused, "\n".join(refused)


@pytest.mark.parametrize("who", ROLES)
def test_a_role_has_no_right_that_nothing_uses(recorded: tuple[Aws, set[Call]], who: str) -> None:
    aws, calls = recorded
    unused = [
        str(right)
        for right in rights(aws, who)
        if not {(right.sid, right.action), (right.sid, "*")} & UNSEEN.keys()
        and not any(call.who == who and right.covers(call) for call in calls)
    ]
    assert not unused, "\n".join(unused)


def test_reasons_are_only_given_for_statements_that_there_are(recorded: tuple[Aws, set[Call]]) -> None:
    aws, _ = recorded
    there = {(right.sid, action) for who in ROLES for right in rights(aws, who) for action in (right.action, "*")}
    assert UNSEEN.keys() <= there
