"""The parts of StartJobRun, and Spark's options."""

import re

import pytest
from botocore.session import get_session

from kpi_common.errors import UsageError
from kpi_pipeline.emr import request
from kpi_pipeline.files.arrivals import safe_name
from kpi_pipeline.settings import PipelineSettings, load_pipeline_settings

RUN_IDS = [
    "manual__2024-06-25T00:00:00+00:00",
    "scheduled__2024-06-25T00:00:00+00:00_a.very-long_id" * 5,
    "von Hand: Ümläute / & Leerzeichen",
    "..",
]


@pytest.fixture
def settings() -> PipelineSettings:
    role = "arn:aws:iam::123456789012:role/job"
    return load_pipeline_settings({"bucket_name": "b-1", "emr_application_id": "app", "execution_role_arn": role}.get)


@pytest.mark.parametrize("run_id", RUN_IDS)
def test_tokens_are_what_emr_takes_and_differ_by_run_and_try(run_id: str) -> None:
    tokens = {request.client_token(one, number) for one in (run_id, run_id + "x") for number in (1, 2, 11)}
    assert len(tokens) == 6
    assert all(re.fullmatch(r"[A-Za-z0-9._-]{1,64}", token) for token in tokens)
    assert request.client_token(run_id, 1) == request.client_token(run_id, 1)


@pytest.mark.parametrize("run_id", RUN_IDS)
def test_each_try_has_a_run_id_that_the_application_takes_and_a_token(settings: PipelineSettings, run_id: str) -> None:
    asked = request.job_request(settings, run_id, ["run", "--manifest", "s3://b-1/m.json"])
    names, tokens = set(), set()
    for number in (1, 2, 3):
        driver, config = request.for_try(asked["job_driver"], asked["config"], run_id, number)
        arguments = driver["sparkSubmit"]["entryPointArguments"]
        name = arguments[arguments.index("--run-id") + 1]
        assert re.fullmatch(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._~:+=@-]{0,199}", name)
        names.add(name)
        tokens.add(config["clientToken"])
    assert len(names) == len(tokens) == 3
    assert safe_name(run_id) in names
    again = request.for_try(driver, config, run_id, 3)
    assert again == (driver, config), "rendered again when the task is resumed"


def test_the_request_has_one_attempt_a_timeout_and_a_token(settings: PipelineSettings) -> None:
    asked = request.job_request(settings, "run-1", ["run", "--manifest", "s3://b-1/m.json"])
    assert asked["config"]["retryPolicy"] == {"maxAttempts": 1}
    assert asked["config"]["executionTimeoutMinutes"] == 120
    assert asked["config"]["clientToken"] == request.client_token("run-1", 1)
    submit = asked["job_driver"]["sparkSubmit"]
    assert submit["entryPoint"].startswith("local:///")
    assert submit["entryPointArguments"][:3] == ["run", "--manifest", "s3://b-1/m.json"]
    logs = asked["configuration_overrides"]["monitoringConfiguration"]["s3MonitoringConfiguration"]["logUri"]
    assert logs == "s3://b-1/logs/emr"


def test_sizes_and_own_properties_come_after_the_common_ones(settings: PipelineSettings) -> None:
    larger = settings.model_copy(update={"executor_memory": "30g", "spark_conf": {"spark.x": "a b"}})
    parameters = request.submit_parameters(larger)
    assert "--conf spark.executor.memory=30g" in parameters
    assert "--conf 'spark.x=a b'" in parameters
    assert "--conf spark.jars=/usr/share/aws/delta/lib/delta-spark.jar" in parameters


def test_further_jars_come_beside_deltas(settings: PipelineSettings) -> None:
    driver = settings.model_copy(update={"spark_conf": {"spark.jars": "s3://b-1/postgresql.jar"}})
    (jars,) = (p for p in request.submit_parameters(driver).split(" ") if p.startswith("spark.jars="))
    assert jars == f"spark.jars={request.spark_properties('emr')['spark.jars']},s3://b-1/postgresql.jar"


def test_what_not_every_boto3_knows_is_asked_for_only_by_settings(settings: PipelineSettings) -> None:
    plain = request.job_request(settings, "r", "s3://b-1/m.json")["config"]
    assert not plain.keys() & {"flexExecution", "executionIamPolicy"}
    for policy, field in (
        ("arn:aws:iam::aws:policy/x", {"policyArns": ["arn:aws:iam::aws:policy/x"]}),
        ("{}", {"policy": "{}"}),
    ):
        narrowed = settings.model_copy(update={"execution_iam_policy": policy})
        assert request.job_request(narrowed, "r", "s3://b-1/m.json")["config"]["executionIamPolicy"] == field


def test_a_field_that_this_boto3_does_not_know_is_refused_by_its_setting(settings: PipelineSettings) -> None:
    flexible = settings.model_copy(update={"flex_execution": True})
    shape = get_session().get_service_model("emr-serverless").operation_model("StartJobRun").input_shape
    assert shape is not None
    if "flexExecution" in shape.members:
        asked = request.job_request(flexible, "r", "s3://b-1/m.json")
        assert asked["config"]["flexExecution"] == {"enabled": True}
        return
    with pytest.raises(UsageError, match=r"flex_execution: boto3 .* does not know flexExecution"):
        request.job_request(flexible, "r", "s3://b-1/m.json")


def test_shuffles_go_to_emr_or_to_disks_of_workers(settings: PipelineSettings) -> None:
    serverless = request.submit_parameters(settings.model_copy(update={"serverless_storage": True}))
    assert "--conf spark.aws.serverlessStorage.enabled=true" in serverless
    assert ".disk=" not in serverless
    assert "--conf spark.emr-serverless.executor.disk=50g" in request.submit_parameters(settings)
