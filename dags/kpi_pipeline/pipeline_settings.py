"""Settings of the pipeline around the Spark job: buckets, the EMR application, sizes, alerts.

A setting comes from the run's params, else from the Airflow Variable of its name, else from the default here. What
has no default must be set; all that is missing is named at once.
"""

from __future__ import annotations

import json
from typing import Any, Callable

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from kpi_pipeline.errors import UsageError

Lookup = Callable[[str], Any]
NAME_PATTERN = r"^[A-Za-z0-9_.-]*$"
BUCKET_PATTERN = r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$"
MEMORY_PATTERN = r"^[1-9][0-9]*[mMgG]$"


class PipelineSettings(BaseModel):
    """One run's settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

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
    spark_conf: dict[str, str] = Field(default_factory=dict, description="more Spark properties")
    driver_cores: int = Field(4, ge=1, le=16)
    driver_memory: str = Field("14g", pattern=MEMORY_PATTERN)
    executor_cores: int = Field(4, ge=1, le=16)
    executor_memory: str = Field("14g", pattern=MEMORY_PATTERN)
    executor_disk: str = Field("50g", pattern=MEMORY_PATTERN, description="of each worker")
    max_executors: int = Field(8, ge=1, description="upper limit of dynamic allocation")
    execution_timeout_minutes: int = Field(120, ge=5, description="after this EMR cancels the job")
    job_tags: dict[str, str] = Field(default_factory=dict, description="tags of the job, for cost reports")
    database_name: str = Field("music_streaming", description="the analysts' database; a tag of the job")

    # Files.
    max_files: int = Field(5000, ge=1, description="files of one run at most, the oldest first")
    max_bytes: int = Field(100 * 1024**3, ge=1, description="bytes of one run at most")
    max_attempts: int = Field(3, ge=1, description="failed jobs after which a file is set aside")
    claim_hours: float = Field(
        24, gt=0, description="a claim of a run that Airflow doesn't know is given up after this"
    )
    keep_intermediate_days: float = Field(7, ge=0, description="what runs that died left is deleted after this")

    # DynamoDB.
    table_prefix: str = Field("", pattern=NAME_PATTERN, description="put before the name of every table")
    max_write_rate: float = Field(0, ge=0, description="write units a second; 0 = conf/dynamodb/operations.toml's")
    adopt_lake: bool = Field(False, description="take tables over that another lake has written to")

    # Alerts.
    alert_emails: tuple[str, ...] = Field((), description="recipients, separated by commas")
    alert_from: str = Field("music-streaming-kpis@localhost", description="sender of e-mails")
    alert_topic_arn: str = Field("", pattern=r"^(arn:aws[a-z-]*:sns:.+)?$", description="SNS topic")

    @field_validator("alert_emails", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("job_settings", "spark_conf", "job_tags", mode="before")
    @classmethod
    def _object(cls, value: Any) -> Any:
        found = json.loads(value) if isinstance(value, str) else value
        if not isinstance(found, dict):
            return found
        return {str(k): json.dumps(v) if isinstance(v, (bool, list, dict)) else str(v) for k, v in found.items()}

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
    def lake(self) -> str:
        """Address of the lake."""
        return _address(self.lake_bucket, self.lake_prefix)

    @property
    def intermediate(self) -> str:
        """Address of the folder with a folder for each run."""
        return _address(self.intermediate_bucket, self.intermediate_prefix)

    @property
    def streams_pattern(self) -> str:
        """Key pattern of new stream files, in the source bucket."""
        return f"{self.source_prefix}/streams/*.csv*".lstrip("/")

    @property
    def log_uri(self) -> str | None:
        """Address of the Spark job's logs."""
        return _address(self.intermediate_bucket, self.log_prefix) if self.log_prefix else None

    def to_json(self) -> dict[str, Any]:
        """Return plain data; `PipelineSettings(**data)` makes it again."""
        return self.model_dump(mode="json")


BUCKETS = ("source_bucket", "lake_bucket", "intermediate_bucket", "archive_bucket")


def setting_names() -> dict[str, str]:
    """Return all settings with their descriptions."""
    return {name: field.description or name.replace("_", " ") for name, field in PipelineSettings.model_fields.items()}


def load_pipeline_settings(*lookups: Lookup) -> PipelineSettings:
    """Read each setting from the first lookup that has it (None and "" count as not there).

    Raises:
        UsageError: settings are missing or wrong; the message names all of them and where to set them.
    """
    values: dict[str, Any] = {}
    for name in PipelineSettings.model_fields:
        for lookup in lookups:
            value = lookup(name)
            if value is not None and value != "":
                values[name] = value
                break
    for bucket in BUCKETS:
        if bucket not in values and "bucket_name" in values:
            values[bucket] = values["bucket_name"]
    try:
        return PipelineSettings(**values)
    except ValidationError as error:
        raise UsageError(_told(error, values)) from error


def _told(error: ValidationError, values: dict[str, Any]) -> str:
    missing, wrong = [], []
    for one in error.errors():
        name = str(one["loc"][0])
        if one["type"] == "missing":
            missing.append("bucket_name" if name in BUCKETS else name)
        else:
            wrong.append(f"{name}={values.get(name)!r}: {one['msg']}")
    parts = []
    if missing:
        parts.append(f"missing: {', '.join(dict.fromkeys(missing))}")
    if wrong:
        parts.append(f"wrong: {'; '.join(wrong)}")
    return f"settings of the pipeline, {'; '.join(parts)}. Set an Airflow Variable of that name, or the run's param."


def _address(bucket: str, prefix: str) -> str:
    return f"s3://{bucket}/{prefix}" if prefix else f"s3://{bucket}"
