"""The CloudFormation template: clean, deployable as far as moto goes, with roles that can do no more than they need."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
from cfnlint.decode import cfn_yaml
from moto.server import ThreadedMotoServer

from kpi_pipeline.monitoring.figures import HELP
from kpi_pipeline.monitoring.sinks import NAMESPACE
from tools.deploy import SETTINGS, TEMPLATE, main
from tools.toolchain import BUILD, LOCKS, ROOT, get_own_venv

pytestmark = pytest.mark.integration
REGION = "eu-central-1"
TEMPLATES = ("template.yaml", "kpi_api.yaml")
GIVEN = ("--region", REGION, "--stack-name", "music")
# Actions whose resource can't be named, and why
WILDCARDS = {("Key", "kms:*"): "the account's own administration of the key, which else nobody could change"}
# Statements whose resource can't be named, and why
NAMELESS = {
    "TheAccountAdministersTheKey": "it stands in the policy of the key itself",
    "NotificationsAreEncrypted": "the same",
    "LogsAreEncrypted": "the same",
    "WatchesItsOwnStatements": "they have no ARN; a condition leaves the role its own",
}


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes clients of an empty moto, which the environment names too."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "any")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    requests.post(f"http://{host}:{port}/moto-api/reset", timeout=10)  # all servers of a process have the same content
    yield lambda service: boto3.client(service, region_name=REGION)
    server.stop()


@pytest.fixture(scope="module")
def template() -> Any:
    return cfn_yaml.load(str(TEMPLATE))


def test_the_template_is_clean() -> None:
    command = [str(Path(sys.executable).with_name("cfn-lint")), str(TEMPLATE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_a_stack_is_made_and_deleted(aws: Any, capsys: pytest.CaptureFixture[str]) -> None:
    workgroup = f"arn:aws:redshift-serverless:{REGION}:123456789012:workgroup/w"
    parameters = ("AlertEmail=ops@example.org", "GlueDatabase=music", "GlueSpectrumDatabase=x", "RedshiftWorkgroupArn=")
    given = [part for name in parameters for part in ("--parameter", name)]
    assert main([*GIVEN, *given[:-1], f"{given[-1]}{workgroup}"]) == 0
    shown = capsys.readouterr().out
    bucket = f"music-123456789012-{REGION}"
    assert f'"bucket_name": "{bucket}"' in shown
    assert "./build.sh push --repository 123456789012.dkr.ecr.eu-central-1.amazonaws.com/music" in shown
    cloudformation = aws("cloudformation")
    (rule,) = aws("s3").get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "aws:kms"
    table = aws("dynamodb").describe_table(TableName="music_streaming_kpis_delta_log")["Table"]
    assert [key["AttributeName"] for key in table["KeySchema"]] == ["tablePath", "fileName"]

    roles = {role["RoleName"] for role in aws("iam").list_roles()["Roles"]}
    policies = {tuple(aws("iam").list_role_policies(RoleName=role)["PolicyNames"]) for role in roles}
    assert policies == {("job", "glue", "spectrum"), ("copy",)}
    cloudformation.delete_stack(StackName="music")
    assert aws("sqs").list_queues().get("QueueUrls", []) == []
    assert aws("iam").list_roles()["Roles"] == []


SMALL = """
AWSTemplateFormatVersion: "2010-09-09"

Parameters:
  First:
    Type: String
    Default: a
  Second:
    Type: String
    Default: b

Conditions:
  Always: !Equals [a, a]

Resources:
  Topic:
    Type: AWS::SNS::Topic
    Properties: {TopicName: !Sub "${First}-${Second}"}

Outputs:
  RepositoryUri: {Value: r}
  QueueUrl: {Value: !Sub "${First}-${Second}"}
  DagPolicyArn: {Value: p}
"""


@pytest.mark.usefixtures("aws")
def test_parameters_that_are_not_given_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a small template, as moto can't update ours."""
    small = tmp_path / "small.yaml"
    small.write_text(SMALL, "utf-8")
    monkeypatch.setattr("tools.deploy.TEMPLATE", small)
    monkeypatch.setattr("tools.deploy.ROOT", tmp_path)
    assert main([*GIVEN, "--parameter", "First=x"]) == 0
    assert main([*GIVEN, "--parameter", "Second=y"]) == 0
    assert "MUSIC_KPIS_DAG_QUEUE_URL=x-y" in capsys.readouterr().out


def test_throttled_writes_of_every_table_are_alarmed(template: Any) -> None:
    metrics = template["Resources"]["ThrottlesAlarm"]["Properties"]["Metrics"]
    named = {name for metric in metrics for name in re.findall(r"\$\{TablePrefix\}(\w+)", str(metric))}
    layout = tomllib.loads((ROOT / "conf/dynamodb/kpi_tables.toml").read_text("utf-8"))["tables"]
    assert named == {table["name"] for table in layout.values()}


def test_the_alarms_metrics_are_those_that_runs_hand_over(template: Any) -> None:
    ours = [r["Properties"] for r in template["Resources"].values() if r["Properties"].get("Namespace") == NAMESPACE]
    assert {alarm["MetricName"] for alarm in ours} == {"last_success_timestamp_seconds", "files"}
    assert {alarm["MetricName"] for alarm in ours} <= HELP.keys()


@pytest.fixture(scope="module")
def checkers() -> Path:
    """The Python that has checkov and cfn-guard."""
    return get_own_venv(BUILD / "cfn", LOCKS / "cfn.txt", "checkov and cfn-guard")


@pytest.mark.long
@pytest.mark.parametrize("name", TEMPLATES)
def test_checkov_finds_nothing_that_is_not_suppressed_with_a_reason(checkers: Path, name: str) -> None:
    options = ("--framework", "cloudformation", "--output", "json", "--skip-download", "-f", TEMPLATE.with_name(name))
    done = subprocess.run([checkers.with_name("checkov"), *options], capture_output=True, text=True, check=False)
    results = json.loads(done.stdout)["results"]
    assert [(one["check_id"], one["resource"]) for one in results["failed_checks"]] == []
    assert results["passed_checks"]
    assert all(one["check_result"]["suppress_comment"] for one in results["skipped_checks"])


GUARD = """
import json, sys
from cfn_guard_rs import run_checks
rules, documents = json.load(sys.stdin)
print(json.dumps([[found.Rule.name for found in run_checks(one, rules).not_compliant] for one in documents]))
"""
# Rule of conf/aws/rules.guard -> a place in the template and what breaks the rule there
BROKEN: dict[str, tuple[str, Any]] = {
    "buckets_are_versioned_encrypted_and_closed": ("Bucket.Properties.VersioningConfiguration.Status", "Suspended"),
    "what_holds_data_outlives_its_stack": ("LogTable.DeletionPolicy", "Delete"),
    "tables_are_encrypted_and_can_be_restored": ("LogTable.Properties.SSESpecification.SSEEnabled", False),
    "keys_rotate": ("Key.Properties.EnableKeyRotation", False),
    "messages_are_encrypted": ("Queue.Properties.KmsMasterKeyId", None),
    "logs_end": ("Figures.Properties.RetentionInDays", None),
    "images_do_not_change": ("Repository.Properties.ImageTagMutability", "MUTABLE"),
    "only_services_take_roles": (
        "JobRole.Properties.AssumeRolePolicyDocument.Statement",
        [{"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}],
    ),
    "no_right_is_for_all_actions": (
        "DagPolicy.Properties.PolicyDocument.Statement",
        [{"Effect": "Allow", "Action": "s3:*", "Resource": "x"}],
    ),
    "alarms_tell_somebody": ("NoSuccessAlarm.Properties.AlarmActions", []),
}


@pytest.mark.long
def test_cfn_guard_finds_nothing_and_each_of_its_rules_can_fail(checkers: Path) -> None:
    documents = [cfn_yaml.load(str(TEMPLATE.with_name(name))) for name in TEMPLATES]
    documents += [broken(json.loads(json.dumps(documents[0])), *change) for change in BROKEN.values()]
    given = json.dumps([TEMPLATE.with_name("rules.guard").read_text("utf-8"), documents])
    done = subprocess.run([checkers, "-c", GUARD], input=given, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[], [], *([rule] for rule in BROKEN)]


def broken(document: Any, place: str, value: Any) -> Any:
    """The template with another value in one place; None takes away what is there."""
    *steps, last = place.split(".")
    part = document["Resources"]
    for step in steps:
        part = part[step]
    part[last] = value
    if value is None:
        del part[last]
    return document


def test_the_bucket_is_closed_versioned_and_tells_of_new_streams(template: Any) -> None:
    """What moto doesn't make of a bucket."""
    bucket = template["Resources"]["Bucket"]["Properties"]
    assert all(bucket["PublicAccessBlockConfiguration"].values())
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    (told,) = bucket["NotificationConfiguration"]["QueueConfigurations"]
    assert told["Filter"]["S3Key"]["Rules"] == [{"Name": "prefix", "Value": "raw/streams/"}]
    (deny,) = template["Resources"]["BucketPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    assert (deny["Effect"], deny["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})


def test_a_dry_run_calls_nothing(aws: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*GIVEN, "--image-uri", "r/music@sha256:" + "0" * 64, "--dry-run"]) == 0
    assert "--parameter-overrides ImageUri=r/music@sha256:000" in capsys.readouterr().out
    assert aws("cloudformation").list_stacks()["StackSummaries"] == []


@pytest.mark.parametrize(("given", "message"), [("x", "expected NAME=VALUE"), ("X=1", "has no parameter X; it has: A")])
def test_a_wrong_parameter_is_said(given: str, message: str, aws: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*GIVEN, "--parameter", given]) == 1
    assert message in capsys.readouterr().err
    assert aws("cloudformation").list_stacks()["StackSummaries"] == []


def statements(template: Any) -> list[tuple[str, dict[str, Any]]]:
    """Allowing statements of all policies, with the resource of the template that has them."""
    found = []
    for name, resource in template["Resources"].items():
        stack: list[Any] = [resource["Properties"]]
        while stack:
            part = stack.pop()
            if isinstance(part, dict):
                if part.get("Effect") == "Allow":
                    found.append((name, part))
                stack += part.values()
            elif isinstance(part, list):
                stack += part
    return found


def actions(statement: dict[str, Any]) -> list[str]:
    return listed(statement["Action"])


def listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]


@pytest.mark.parametrize("file", sorted(TEMPLATE.parent.glob("*.yaml")), ids=lambda file: file.stem)
def test_no_right_has_a_wildcard_without_a_reason(file: Path) -> None:
    found = statements(cfn_yaml.load(str(file)))
    assert found
    for name, statement in found:
        for action in actions(statement):
            assert "*" not in action or (name, action) in WILDCARDS, (name, action)
        assert "*" not in listed(statement.get("Resource", [])) or statement["Sid"] in NAMELESS, (
            name,
            statement["Sid"],
        )


def of(template: Any, name: str, service: str) -> list[dict[str, Any]]:
    return [s for n, s in statements(template) if n == name and any(a.startswith(f"{service}:") for a in actions(s))]


def test_the_job_has_no_right_on_kpi_tables(template: Any) -> None:
    (only,) = of(template, "JobRole", "dynamodb")
    assert only["Resource"] == {"Fn::GetAtt": ["LogTable", "Arn"]}


def test_the_dag_reads_no_staged_or_quarantined_rows(template: Any) -> None:
    objects = [s for s in of(template, "DagPolicy", "s3") if actions(s) != ["s3:ListBucket"]]
    places = re.findall(r"\$\{Bucket\.Arn\}/([a-z./*_]+)", str([statement["Resource"] for statement in objects]))
    assert {place for place in places if place.startswith("lake/")} == {
        "lake/lake.json",
        "lake/runs/*",
        "lake/exports/*",
        "lake/exports/*/delivered.json",
    }


def test_only_the_jobs_role_is_passed_and_only_to_emr(template: Any) -> None:
    (passing,) = of(template, "DagPolicy", "iam")
    assert passing["Resource"] == {"Fn::GetAtt": ["JobRole", "Arn"]}
    assert passing["Condition"] == {"StringEquals": {"iam:PassedToService": "emr-serverless.amazonaws.com"}}


def test_the_dag_may_write_exactly_the_tables_of_the_layout(template: Any) -> None:
    writing = [statement["Resource"] for statement in of(template, "DagPolicy", "dynamodb")]
    named = set(re.findall(r"\$\{TablePrefix\}(\w+)", str(writing)))
    layout = tomllib.loads((ROOT / "conf/dynamodb/kpi_tables.toml").read_text("utf-8"))["tables"]
    operations = tomllib.loads((ROOT / "conf/dynamodb/operations.toml").read_text("utf-8"))["tables"]
    expected = {table["name"] for table in layout.values()} | {operations["status"], operations["processed_streams"]}
    assert named == expected


def test_what_is_printed_are_settings_of_the_dag() -> None:
    from kpi_pipeline.settings import PipelineSettings

    assert set(SETTINGS.values()) <= set(PipelineSettings.model_fields)
