"""All settings of the pipeline: those of one run (buckets, the EMR job, files, alerts) and those of the delivery.

A run's setting comes from the run's params, else from an Airflow Variable, else from the default here. A setting of
the delivery comes from `conf/dynamodb/operations.toml` < `MUSIC_KPIS_DYNAMODB_<KEY>` in the environment < arguments.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from kpi_common.conf_files import load_toml
from kpi_common.errors import UsageError

Lookup = Callable[[str], Any]
ENVIRONMENT_PREFIX = "MUSIC_KPIS_DYNAMODB_"
SETTINGS_VARIABLE = "music_streaming_pipeline"
NAME_PATTERN = r"^[A-Za-z0-9_.-]*$"
BUCKET_PATTERN = r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$"
MEMORY_PATTERN = r"^[1-9][0-9]*[mMgG]$"
SECRET_NAME = re.compile(r"password|passwd|secret|token|access\.?key|private\.?key", re.IGNORECASE)
SECRET_REFERENCE = "EMR.secret@"  # noqa: S105 (EMR Serverless reads such a property from Secrets Manager)
NAMES_A_SECRET = "database_secret"  # noqa: S105 (the application's setting: where the secret is, not the secret)


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AlertSettings(_Settings):
    """Who hears of a run; read by themselves where the other settings can't be."""

    alert_emails: tuple[str, ...] = Field((), description="recipients, separated by commas")
    alert_from: str = Field("music-streaming-kpis@localhost", description="sender of e-mails")
    alert_topic_arn: str = Field("", pattern=r"^(arn:aws[a-z-]*:sns:.+)?$", description="SNS topic")
    alert_slack_conn_id: str = Field("", description="connection of a Slack webhook; needs the provider slack")
    alert_pagerduty_conn_id: str = Field(
        "", description="connection with a PagerDuty integration key (its host: another region); needs its provider"
    )
    alert_min_quality: float = Field(90, ge=0, le=100, description="alert if fewer of 100 rows read are good; 0: never")
    alert_usual_runs: int = Field(
        14, ge=0, le=100, description="runs that the shares of bad and waiting rows are compared with; 0: never"
    )
    alert_success_hours: float = Field(25, ge=0, description="alert if no run succeeded for so long; 0: never")
    alert_late_minutes: float = Field(0, ge=0, description="alert if a run takes longer; 0: never")

    @field_validator("alert_emails", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


class RedshiftSettings(_Settings):
    """Where KPIs are loaded in Redshift; nothing is, unless these are set."""

    redshift_workgroup: str = Field(
        "", pattern=r"^([a-z0-9-]{3,64})?$", description="Redshift Serverless workgroup that the KPIs are loaded into"
    )
    redshift_cluster: str = Field("", description="instead of a workgroup: a provisioned cluster")
    redshift_database: str = Field("", description="its database")
    redshift_schema: str = Field("music_streaming", pattern=r"^[a-z_][a-z0-9_]{0,126}$", description="made if missing")
    redshift_copy_role: str = Field(
        "", pattern=r"^(default|arn:aws[a-z-]*:iam::\d{12}:role/.+)?$", description="role by which COPY reads S3"
    )
    redshift_secret_arn: str = Field("", description="secret with user and password; empty: the caller's IAM identity")
    redshift_db_user: str = Field(
        "", description="of a cluster, instead of a secret: a user with temporary credentials"
    )

    @property
    def redshift_is_on(self) -> bool:
        """Whether there is something to load into."""
        return bool(self.redshift_database)

    @property
    def target(self) -> dict[str, str]:
        """The database and who asks it, as the provider's operator takes them."""
        found = {
            "workgroup_name": self.redshift_workgroup,
            "cluster_identifier": self.redshift_cluster,
            "database": self.redshift_database,
            "secret_arn": self.redshift_secret_arn,
            "db_user": self.redshift_db_user,
        }
        return {name: value for name, value in found.items() if value}

    @model_validator(mode="after")
    def _whole(self) -> RedshiftSettings:
        if not self.target and not self.redshift_copy_role:
            return self
        missing = [name for name in ("redshift_database", "redshift_copy_role") if not getattr(self, name)]
        if not self.redshift_workgroup and not self.redshift_cluster:
            missing.insert(0, "redshift_workgroup or redshift_cluster")
        if missing:
            raise ValueError(f"Redshift is half set; missing: {', '.join(missing)}")
        if self.redshift_workgroup and (self.redshift_cluster or self.redshift_db_user):
            raise ValueError("redshift_workgroup goes with neither redshift_cluster nor redshift_db_user: drop one")
        if self.redshift_secret_arn and self.redshift_db_user:
            raise ValueError("redshift_secret_arn and redshift_db_user are two ways to log in: drop one")
        return self


class PipelineSettings(RedshiftSettings, AlertSettings):
    """One run's settings."""

    # Where files are. `bucket_name` serves for all buckets that have no name of their own.
    bucket_name: str = Field("", description="bucket for everything not named below")
    source_bucket: str = Field(pattern=BUCKET_PATTERN, description="where new files arrive")
    lake_bucket: str = Field(pattern=BUCKET_PATTERN, description="where the Delta lake is")
    intermediate_bucket: str = Field(pattern=BUCKET_PATTERN, description="run manifests, deleted after the run")
    archive_bucket: str = Field(pattern=BUCKET_PATTERN, description="processed and rejected files")
    source_prefix: str = Field("raw", description="streams/, songs/ and users/ are below it")
    lake_prefix: str = Field("lake", description="of the Delta lake")
    intermediate_prefix: str = Field("intermediate", description="of run manifests")
    archive_prefix: str = Field("archive", description="of processed files")
    rejected_prefix: str = Field("rejected", description="of rejected files, in the archive bucket")
    log_prefix: str = Field("logs/emr", description="of the Spark job's logs, in the intermediate bucket; empty: none")
    log_group: str = Field("", description="CloudWatch log group of the Spark job; empty: none")

    # The Spark job.
    emr_application_id: str = Field(min_length=1, description="EMR Serverless application")
    execution_role_arn: str = Field(
        pattern=r"^arn:aws[a-z-]*:iam::\d{12}:role/.+$", description="role of the Spark job"
    )
    entry_point: str = Field("local:///opt/music-streaming-kpis/main.py", description="the application in the image")
    job_environment: str = Field("emr", pattern=NAME_PATTERN, description="file of conf/settings in the image")
    job_settings: dict[str, str] = Field(default_factory=dict, description="settings of the application (--set)")
    spark_conf: dict[str, str] = Field(default_factory=dict, description="more Spark properties; no secrets")
    driver_cores: Literal[1, 2, 4, 8, 16] = Field(4, description="vCPUs of the driver")
    driver_memory: str = Field("14g", pattern=MEMORY_PATTERN, description="memory of the driver's Java")
    executor_cores: Literal[1, 2, 4, 8, 16] = Field(4, description="vCPUs of an executor")
    executor_memory: str = Field("14g", pattern=MEMORY_PATTERN, description="memory of an executor's Java")
    executor_disk: str = Field("50g", pattern=MEMORY_PATTERN, description="of each worker")
    serverless_storage: bool = Field(
        False,
        description="shuffles go to EMR's own storage, not to disks of workers: when shuffles are large or uneven; "
        "not with workers of 1 or 2 vCPUs",
    )
    flex_execution: bool = Field(
        False, description="executors on spare capacity: cheaper, but it may take longer; for backfills, not deadlines"
    )
    execution_iam_policy: str = Field(
        "", description="IAM policy (JSON or ARN) that narrows the job's role: when many jobs share one role"
    )
    max_executors: int = Field(8, ge=1, description="upper limit of dynamic allocation")
    execution_timeout_minutes: int = Field(120, ge=5, description="after this EMR cancels the job")
    job_tags: dict[str, str] = Field(default_factory=dict, description="tags of the job, for cost reports")
    database_name: str = Field("music_streaming", description="the analysts' database; a tag of the job")

    # Files.
    max_files: int = Field(5000, ge=1, description="files of one run at most, the oldest first")
    max_bytes: int = Field(100 * 1024**3, ge=1, description="bytes of one run at most")
    claim_hours: float = Field(24, gt=0, description="a claim of a run that Airflow doesn't know ends after this")
    quarantine_days: int = Field(90, ge=0, description="bad rows and samples of them are deleted after this; 0: never")
    keep_intermediate_days: float = Field(7, ge=0, description="what runs that died left is deleted after this")

    # Monitoring.
    metrics_log_group: str = Field(
        "", description="CloudWatch log group that gets each run's figures as embedded metrics; empty: none"
    )
    metrics_textfile_dir: str = Field("", description="folder of the node exporter's text files; empty: none")
    metrics_pushgateway: str = Field("", description="address of a Prometheus push gateway; empty: none")

    # DynamoDB.
    table_prefix: str = Field("", pattern=NAME_PATTERN, description="put before the name of every table")
    max_write_rate: float = Field(0, ge=0, description="write units a second; 0: conf/dynamodb/operations.toml's")
    adopt_lake: bool = Field(False, description="take tables over that another lake has written to")

    @field_validator("driver_cores", "executor_cores", mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        return int(value) if isinstance(value, str) and value.isdecimal() else value

    @field_validator("execution_iam_policy", mode="before")
    @classmethod
    def _policy(cls, value: Any) -> Any:
        return json.dumps(value) if isinstance(value, dict) else value

    @field_validator("job_settings", "spark_conf", "job_tags", mode="before")
    @classmethod
    def _object(cls, value: Any) -> Any:
        found = json.loads(value) if isinstance(value, str) else value
        if not isinstance(found, dict):
            return found
        return {str(k): json.dumps(v) if isinstance(v, (bool, list, dict)) else str(v) for k, v in found.items()}

    @field_validator("job_settings", "spark_conf")
    @classmethod
    def _no_secrets(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if name != NAMES_A_SECRET and SECRET_NAME.search(name) and not text.startswith(SECRET_REFERENCE):
                raise ValueError(
                    f"{name} looks like a secret, and jobs show their settings to everybody: put the value into AWS "
                    f"Secrets Manager and name it here as {SECRET_REFERENCE}<name or ARN>"
                )
        return value

    @model_validator(mode="after")
    def _sizes(self) -> PipelineSettings:
        small = [name for name in ("driver_cores", "executor_cores") if getattr(self, name) <= 2]
        if self.serverless_storage and small:
            raise ValueError(f"serverless_storage needs workers of at least 4 vCPUs: raise {' and '.join(small)}")
        return self

    @field_validator(
        "source_prefix", "lake_prefix", "intermediate_prefix", "archive_prefix", "rejected_prefix", "log_prefix"
    )
    @classmethod
    def _trim(cls, value: str) -> str:
        return value.strip("/")

    @property
    def source(self) -> str:
        """Address of the folder with streams/, songs/ and users/."""
        return _address(self.source_bucket, self.source_prefix)

    @property
    def arrivals(self) -> str:
        """Address pattern of new stream files."""
        return f"{self.source}/streams/*.csv*"

    @property
    def lake(self) -> str:
        """Address of the lake."""
        return _address(self.lake_bucket, self.lake_prefix)

    @property
    def intermediate(self) -> str:
        """Address of the folder with a folder for each run."""
        return _address(self.intermediate_bucket, self.intermediate_prefix)

    @property
    def archive(self) -> str:
        """Address of the folder of processed files."""
        return _address(self.archive_bucket, self.archive_prefix)

    @property
    def rejected(self) -> str:
        """Address of the folder of rejected files."""
        return _address(self.archive_bucket, self.rejected_prefix)

    @property
    def log_uri(self) -> str | None:
        """Address of the Spark job's logs."""
        return _address(self.intermediate_bucket, self.log_prefix) if self.log_prefix else None

    @property
    def delivery(self) -> DeliverySettings:
        """The delivery's settings, with the run's on top."""
        return load_delivery_settings(prefix=self.table_prefix or None, max_write_rate=self.max_write_rate or None)

    def to_json(self) -> dict[str, Any]:
        """Return plain data; `PipelineSettings(**data)` makes it again."""
        return self.model_dump(mode="json")


BUCKETS = ("source_bucket", "lake_bucket", "intermediate_bucket", "archive_bucket")
SECTIONS = {
    "Alerts": "alert_emails",
    "Where files are": "bucket_name",
    "Spark job": "emr_application_id",
    "Files": "max_files",
    "Monitoring": "metrics_log_group",
    "DynamoDB": "table_prefix",
    "Redshift": "redshift_workgroup",
}  # by the first field of each, in the form's order


def param_schemas() -> dict[str, dict[str, Any]]:
    """Return a JSON schema for each setting, as Airflow's params take it: null is "not given"."""
    section_of = {first: section for section, first in SECTIONS.items()}
    schemas: dict[str, dict[str, Any]] = {}
    section = ""
    for name, found in PipelineSettings.model_json_schema()["properties"].items():
        section = section_of.get(name, section)
        schema = {key: value for key, value in found.items() if key not in ("default", "items", "additionalProperties")}
        kind = schema.get("type") or {str: "string", int: "integer"}[type(schema["enum"][0])]
        schema["type"] = ["null", *({"array": ["string", "array"], "object": ["object", "string"]}.get(kind, [kind]))]
        if "enum" in schema:
            schema["enum"] = [None, *schema["enum"]]
        if found.get("default") not in (None, "", []):
            schema["description"] += f" (default: {found['default']})"
        schemas[name] = {**schema, "title": name, "section": section}
    order = list(SECTIONS)
    return dict(sorted(schemas.items(), key=lambda one: order.index(one[1]["section"])))


def load_pipeline_settings(*lookups: Lookup) -> PipelineSettings:
    """Read each setting from the first lookup that has it (None and "" count as not there).

    Raises:
        UsageError: settings are missing or wrong; the message names all of them and where to set them.
    """
    values = _looked_up(PipelineSettings, lookups)
    for bucket in BUCKETS:
        if bucket not in values and "bucket_name" in values:
            values[bucket] = values["bucket_name"]
    try:
        return PipelineSettings(**values)
    except ValidationError as error:
        raise UsageError(_message(error)) from error


def load_redshift_settings(values: Mapping[str, str | None]) -> RedshiftSettings:
    """Return the settings of a command, by their names without `redshift_`; None is "not given".

    Raises:
        UsageError: some are missing or wrong.
    """
    given = {f"redshift_{name}": value for name, value in values.items() if value is not None}
    try:
        return RedshiftSettings(**given)
    except ValidationError as error:
        problems = ((str(one["loc"][0]) if one["loc"] else "", one["msg"]) for one in error.errors())
        text = "; ".join(f"{name}: {msg}" if name else msg.removeprefix("Value error, ") for name, msg in problems)
        raise UsageError(re.sub(r"redshift_(\w+)", lambda name: f"--{name[1].replace('_', '-')}", text)) from error


def load_alert_settings(*lookups: Lookup) -> AlertSettings:
    """Read who hears of a run, whatever the other settings are; `ValidationError` when that is wrong too."""
    return AlertSettings(**_looked_up(AlertSettings, lookups))


def settings_variable(text: str | None) -> dict[str, Any]:
    """Return the content of the Airflow Variable with all settings that have none of their own.

    Raises:
        UsageError: it is not a JSON object.
    """
    try:
        found = json.loads(text) if text else {}
    except ValueError as error:
        found = error
    if isinstance(found, dict):
        return found
    raise UsageError(
        f"the Airflow Variable {SETTINGS_VARIABLE} is not a JSON object"
        f"{f' ({found})' if isinstance(found, ValueError) else ''}. Set it to something like "
        '{"job_settings": {"kpi_time_zone": "Europe/Berlin"}}, with double quotes, or delete it.'
    )


def _looked_up(model: type[BaseModel], lookups: tuple[Lookup, ...]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in model.model_fields:
        found = next((value for lookup in lookups if (value := lookup(name)) not in (None, "")), None)
        if found is not None:
            values[name] = found
    return values


def _message(error: ValidationError) -> str:
    missing, wrong = [], []
    for one in error.errors():
        name = str(one["loc"][0]) if one["loc"] else ""
        if not name:  # of several settings together
            wrong.append(one["msg"])
        elif one["type"] == "missing":
            missing.append("bucket_name" if name in BUCKETS else name)
        else:
            value = "" if SECRET_NAME.search(one["msg"]) else f"={one['input']!r}"
            wrong.append(f"{name}{value}: {one['msg']}")
    parts = []
    if missing:
        parts.append(f"missing: {', '.join(dict.fromkeys(missing))}")
    if wrong:
        parts.append(f"wrong: {'; '.join(wrong)}")
    return f"settings of the pipeline, {'; '.join(parts)}. Set an Airflow Variable of that name, or the run's param."


def _address(bucket: str, prefix: str) -> str:
    return f"s3://{bucket}/{prefix}" if prefix else f"s3://{bucket}"


# --- the delivery ---


class TableSettings(_Settings):
    """How tables are named and made; `status` and `processed_streams` are the pipeline's own ones."""

    prefix: str = Field(default="", pattern=NAME_PATTERN)
    status: str = "KPIStatus"
    processed_streams: str = "ProcessedStreams"
    billing_mode: Literal["PAY_PER_REQUEST", "PROVISIONED"] = "PAY_PER_REQUEST"
    read_units: int = Field(default=25, ge=1)
    write_units: int = Field(default=25, ge=1)


class WriterSettings(_Settings):
    """How the batch writer behaves; times in seconds, rates in write units a second (0 = no limit)."""

    workers: int = Field(default=16, ge=1, le=256)
    max_write_rate: float = Field(default=0, ge=0)
    max_retries: int = Field(default=12, ge=0)
    first_wait_seconds: float = Field(default=0.05, gt=0)
    longest_wait_seconds: float = Field(default=20, gt=0)
    lease_seconds: float = Field(default=30, ge=1)
    wait_seconds: float = Field(default=120, ge=0)
    verify_rounds: int = Field(default=3, ge=1)


class DeliverySettings(_Settings):
    """All of `operations.toml`."""

    tables: TableSettings = TableSettings()
    writer: WriterSettings = WriterSettings()

    def table_name(self, name: str) -> str:
        """Return the table's name in DynamoDB."""
        return f"{self.tables.prefix}{name}"

    @property
    def status_table(self) -> str:
        """The name in DynamoDB of the table that tells finished days."""
        return self.table_name(self.tables.status)

    @property
    def processed_streams_table(self) -> str:
        """The name in DynamoDB of the ledger of submitted files."""
        return self.table_name(self.tables.processed_streams)


def load_delivery_settings(**overrides: Any) -> DeliverySettings:
    """Read the settings; `overrides` are keys of [tables] and [writer], None meaning not given.

    Raises:
        UsageError: a setting is unknown or has a value that is not allowed.
    """
    raw: dict[str, Any] = load_toml("dynamodb/operations.toml")
    given: Mapping[str, Any] = {key: value for key, value in overrides.items() if value is not None}
    for section, model in (("tables", TableSettings), ("writer", WriterSettings)):
        known = {f"{ENVIRONMENT_PREFIX}{key.upper()}": key for key in model.model_fields}
        environment = {key: os.environ[name] for name, key in known.items() if name in os.environ}
        arguments = {key: given[key] for key in model.model_fields if key in given}
        raw[section] = {**raw.get(section, {}), **environment, **arguments}
    try:
        return DeliverySettings.model_validate(raw)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise UsageError(f"settings of the delivery (conf/dynamodb/operations.toml): {problems}") from error
