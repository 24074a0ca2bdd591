"""What is asked of EMR Serverless for a run: the parts of StartJobRun.

The Spark options are data in `conf/spark/emr.conf`, given to EMR as `sparkSubmitParameters`: defaults inside a custom
image are not read there, so each job brings its own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import botocore
from botocore.session import get_session

from kpi_common.conf_files import conf_file
from kpi_common.errors import UsageError
from kpi_pipeline.files.arrivals import safe_name
from kpi_pipeline.settings import PipelineSettings

PIPELINE = "music_streaming_pipeline"
TOKEN_LENGTH = 64
JARS = "spark.jars"
RUN_ID_OPTION, LAKE_OPTION = "--run-id", "--lake"


def job_request(settings: PipelineSettings, run_id: str, command: Sequence[str]) -> dict[str, Any]:
    """Return the request for a run's job, as the operator's arguments.

    Args:
        settings: the run's.
        run_id: Airflow's.
        command: of the application, with its own options.
    """
    arguments = [*command, LAKE_OPTION, settings.lake, RUN_ID_OPTION, safe_name(run_id)]
    arguments += ["--env", settings.job_environment, "--log-format", "json"]
    for name, value in settings.job_settings.items():
        arguments += ["--set", f"{name}={value}"]
    submit = {
        "entryPoint": settings.entry_point,
        "entryPointArguments": arguments,
        "sparkSubmitParameters": submit_parameters(settings),
    }
    return {
        "application_id": settings.emr_application_id,
        "execution_role_arn": settings.execution_role_arn,
        "name": job_name(run_id),
        "job_driver": {"sparkSubmit": submit},
        "configuration_overrides": {"monitoringConfiguration": monitoring(settings)},
        "config": {
            "clientToken": client_token(run_id, 1),
            "executionTimeoutMinutes": settings.execution_timeout_minutes,
            "retryPolicy": {"maxAttempts": 1},
            "tags": job_tags(settings, run_id),
            **_optional(settings),
        },
    }


def _optional(settings: PipelineSettings) -> dict[str, Any]:
    """Return fields of StartJobRun that settings ask for and not every boto3 knows.

    Raises:
        UsageError: the boto3 of this Airflow doesn't know one of them.
    """
    policy = settings.execution_iam_policy.strip()
    wanted: dict[str, tuple[str, Any]] = {}
    if settings.flex_execution:
        wanted["flexExecution"] = ("flex_execution", {"enabled": True})
    if policy:
        narrowed = {"policyArns": [policy]} if policy.startswith("arn:") else {"policy": policy}
        wanted["executionIamPolicy"] = ("execution_iam_policy", narrowed)
    shape = get_session().get_service_model("emr-serverless").operation_model("StartJobRun").input_shape
    known = shape.members if shape is not None else {}
    for field, (setting, _) in wanted.items():
        if field not in known:
            raise UsageError(
                f"{setting}: boto3 {botocore.__version__} of this Airflow does not know {field} of StartJobRun yet; "
                f"leave {setting} out, or take an Airflow whose boto3 has it"
            )
    return {field: value for field, (_, value) in wanted.items()}


def for_try(
    job_driver: Mapping[str, Any], config: Mapping[str, Any], run_id: str, try_number: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return job driver and config of a try of the task, from 1: each is a run of its own for application and EMR."""
    submit = dict(job_driver["sparkSubmit"])
    arguments = list(submit["entryPointArguments"])
    suffix = "" if try_number <= 1 else f".t{try_number}"
    arguments[arguments.index(RUN_ID_OPTION) + 1] = f"{safe_name(run_id)}{suffix}"
    return (
        {"sparkSubmit": {**submit, "entryPointArguments": arguments}},
        {**config, "clientToken": client_token(run_id, try_number)},
    )


def job_name(run_id: str) -> str:
    """Return the name by which a run's jobs are found again."""
    return f"{PIPELINE} {run_id}"[:256]


def client_token(run_id: str, try_number: int) -> str:
    """Return a token that is the same for the same run and try, and for no other: at most 64 of `[A-Za-z0-9._-]`."""
    digest = hashlib.sha256(f"{run_id}\n{try_number}".encode()).hexdigest()[:16]
    readable = re.sub(r"[^A-Za-z0-9._-]", "-", run_id)[: TOKEN_LENGTH - len(digest) - 6]
    return f"{readable}-{try_number}-{digest}"[-TOKEN_LENGTH:]


def monitoring(settings: PipelineSettings) -> dict[str, Any]:
    """Return where EMR puts the job's logs: S3, CloudWatch or both, beside its own managed storage."""
    where: dict[str, Any] = {}
    if settings.log_uri:
        where["s3MonitoringConfiguration"] = {"logUri": settings.log_uri}
    if settings.log_group:
        where["cloudWatchLoggingConfiguration"] = {"enabled": True, "logGroupName": settings.log_group}
    return where


def job_tags(settings: PipelineSettings, run_id: str) -> dict[str, str]:
    """Return the job's tags; what AWS does not take in a value is replaced."""
    tags = {"pipeline": PIPELINE, "run_id": run_id, "database_name": settings.database_name, **settings.job_tags}
    return {name: re.sub(r"[^\w .:/=+@-]", "-", value)[:256] for name, value in tags.items()}


def submit_parameters(settings: PipelineSettings) -> str:
    """Return `sparkSubmitParameters`: conf/spark/emr.conf, then the sizes, then the setting `spark_conf`.

    `spark.jars` of both: a database's driver comes beside Delta, not in its place.
    """
    ours = spark_properties("emr")
    jars = [properties[JARS] for properties in (ours, settings.spark_conf) if properties.get(JARS)]
    conf = {
        **ours,
        "spark.driver.cores": str(settings.driver_cores),
        "spark.driver.memory": settings.driver_memory,
        "spark.executor.cores": str(settings.executor_cores),
        "spark.executor.memory": settings.executor_memory,
        **(
            {"spark.aws.serverlessStorage.enabled": "true"}
            if settings.serverless_storage
            else {f"spark.emr-serverless.{role}.disk": settings.executor_disk for role in ("driver", "executor")}
        ),
        "spark.dynamicAllocation.maxExecutors": str(settings.max_executors),
        **settings.spark_conf,
        **({JARS: ",".join(jars)} if jars else {}),
    }
    return as_submit_parameters(conf)


def spark_properties(environment: str) -> dict[str, str]:
    """Read `conf/spark/<environment>.conf`.

    Raises:
        UsageError: there is no such file, or a line is not `name value`.
    """
    path = conf_file(f"spark/{environment}.conf")
    if not path.is_file():
        raise UsageError(f"{path}: configuration file not found")
    properties = {}
    for line in path.read_text("utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, *value = line.split(maxsplit=1)
        if not value:
            raise UsageError(f"{path}: '{line}': expected a name and a value")
        properties[name] = value[0].strip()
    return properties


def as_submit_parameters(properties: Mapping[str, str]) -> str:
    """Return `--conf name=value …` as EMR Serverless splits it; a value with blanks goes in single quotes.

    Raises:
        UsageError: a value holds a quote.
    """
    for name, value in properties.items():
        if "'" in value or '"' in value:
            raise UsageError(f"{name}: a quote in a Spark option can't be handed to EMR: {value}")
    options = (f"{name}={value}" for name, value in properties.items())
    return " ".join(f"--conf '{option}'" if " " in option else f"--conf {option}" for option in options)
