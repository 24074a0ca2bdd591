"""Typed settings of `conf/dynamodb/operations.toml`.

Precedence: the file < environment variables `MUSIC_KPIS_DYNAMODB_<KEY>` (keys of [tables] and [writer]) < arguments.
"""

from __future__ import annotations

import os
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kpi_common.conf_files import load_toml
from kpi_pipeline.errors import UsageError

ENVIRONMENT_PREFIX = "MUSIC_KPIS_DYNAMODB_"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TableSettings(_Section):
    """How tables are named and made."""

    prefix: str = Field(default="", pattern=r"^[A-Za-z0-9_.-]*$")
    billing_mode: Literal["PAY_PER_REQUEST", "PROVISIONED"] = "PAY_PER_REQUEST"
    read_units: int = Field(default=25, ge=1)
    write_units: int = Field(default=25, ge=1)


class WriterSettings(_Section):
    """How the batch writer behaves; times in seconds, rates in write units a second (0 = no limit)."""

    workers: int = Field(default=16, ge=1, le=256)
    max_write_rate: float = Field(default=0, ge=0)
    max_retries: int = Field(default=12, ge=0)
    first_wait_seconds: float = Field(default=0.05, gt=0)
    longest_wait_seconds: float = Field(default=20, gt=0)
    lease_seconds: float = Field(default=30, ge=1)
    wait_seconds: float = Field(default=120, ge=0)
    verify_rounds: int = Field(default=3, ge=1)


class StatusAttributes(_Section):
    """Names of the attributes of a status item."""

    state: str = "state"
    version: str = "version"
    writing_version: str = "writing_version"
    run_id: str = "run_id"
    complete_through: str = "complete_through"
    updated_at: str = "updated_at"
    undeliverable: str = "undeliverable"


class StatusTable(_Section):
    """The table with one item a date that tells finished days."""

    name: str = "KPIStatus"
    partition_key: str = "date"
    attributes: StatusAttributes = StatusAttributes()


class ControlAttributes(_Section):
    """Names of the attributes of the control item."""

    export_seq: str = "export_seq"
    lake_id: str = "lake_id"
    run_id: str = "run_id"
    holder: str = "holder"
    lease_until: str = "lease_until"
    updated_at: str = "updated_at"


class ControlItem(_Section):
    """The item that keeps deliveries in order; it lives in the status table."""

    key: str = Field(default="#control", pattern=r"^[^0-9]")
    attributes: ControlAttributes = ControlAttributes()


class ProcessedStreamsAttributes(_Section):
    """Names of the attributes of an item of the file ledger."""

    status: str = "status"
    processed_on: str = "processed_on"
    etag: str = "etag"
    size: str = "size"
    run_id: str = "run_id"
    rows: str = "rows"
    reason: str = "reason"
    attempts: str = "attempts"


class ProcessedStreamsTable(_Section):
    """The table with one item a stream file."""

    name: str = "ProcessedStreams"
    partition_key: str = "filename"
    attributes: ProcessedStreamsAttributes = ProcessedStreamsAttributes()


class DeliverySettings(_Section):
    """All of `operations.toml`."""

    tables: TableSettings = TableSettings()
    writer: WriterSettings = WriterSettings()
    status: StatusTable = StatusTable()
    control: ControlItem = ControlItem()
    processed_streams: ProcessedStreamsTable = ProcessedStreamsTable()

    def table_name(self, name: str) -> str:
        """Return the table's name in DynamoDB."""
        return f"{self.tables.prefix}{name}"


def load_settings(**overrides: Any) -> DeliverySettings:
    """Read the settings; `overrides` are keys of [tables] and [writer], None meaning not given.

    Raises:
        UsageError: a setting is unknown or has a value that is not allowed.
    """
    raw = load_toml("dynamodb/operations.toml")
    for section, model in (("tables", TableSettings), ("writer", WriterSettings)):
        values = dict(raw.get(section, {}))
        for key in model.model_fields:
            in_environment = os.environ.get(f"{ENVIRONMENT_PREFIX}{key.upper()}")
            if in_environment is not None:
                values[key] = in_environment
            if overrides.get(key) is not None:
                values[key] = overrides[key]
        raw[section] = values
    try:
        return DeliverySettings.model_validate(raw)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise UsageError(f"settings of the delivery (conf/dynamodb/operations.toml): {problems}") from error
