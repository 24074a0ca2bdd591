"""The application's settings: typed, checked before Spark starts, from files, environment and `--set`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from kpi_common.conf_files import CONF_DIR_VARIABLE, conf_dir, load_toml
from spark_app.errors import UsageError

ENVIRONMENT_PREFIX = "MUSIC_KPIS_"
# Variables of the delivery (`dags/kpi_pipeline`) and where conf/ is: not ours to judge.
_NOT_SETTINGS = (f"{ENVIRONMENT_PREFIX}DYNAMODB_", CONF_DIR_VARIABLE)


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError("an IANA time zone such as UTC or Europe/Berlin") from error
    return name


TimeZone = Annotated[str, AfterValidator(_known_zone)]
Share = Annotated[float, Field(ge=0, le=1)]


class Settings(BaseModel):
    """All settings of a run; `conf/settings/default.toml` says what each one means."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kpi_time_zone: TimeZone
    source_time_zone: TimeZone
    max_quarantined_share: Share
    max_waiting_share: Share
    in_future_tolerance_hours: Annotated[float, Field(ge=0)]
    allow_name_reuse: bool
    max_files: Annotated[int, Field(ge=1)]
    max_bytes: Annotated[int, Field(ge=1)]
    lock_lease_seconds: Annotated[float, Field(ge=1, le=3600)]
    lock_wait_seconds: Annotated[float, Field(ge=0)]
    export_part_items: Annotated[int, Field(ge=1)]
    retention_days: Annotated[int, Field(ge=0)]
    inspect_on_driver_bytes: Annotated[int, Field(ge=0)]
    rows_per_data_file: Annotated[int, Field(ge=1000)]
    usd_per_vcpu_hour: Annotated[float, Field(ge=0)]
    usd_per_gb_hour: Annotated[float, Field(ge=0)]


Environment = Literal["local", "emr"]


def load_settings(
    env: str,
    assignments: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Merge the settings of all sources, later ones first: files, environment, `--set name=value`.

    Raises:
        UsageError: an unknown environment or setting, or a value that is not allowed; all of them at once.
    """
    environ = os.environ if environ is None else environ
    if not (conf_dir() / "settings" / f"{env}.toml").is_file():
        known = sorted(p.stem for p in (conf_dir() / "settings").glob("*.toml") if p.stem != "default")
        raise UsageError(f"--env {env}: unknown environment; known are: {', '.join(known)}")
    values: dict[str, Any] = load_toml("settings/default.toml") | load_toml(f"settings/{env}.toml")
    origin = dict.fromkeys(values, "conf/settings")
    for variable, value in environ.items():
        if variable.startswith(ENVIRONMENT_PREFIX) and not variable.startswith(_NOT_SETTINGS):
            name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
            values[name], origin[name] = value, variable
    for assignment in assignments:
        name, separator, value = assignment.partition("=")
        if not separator:
            raise UsageError(f"--set {assignment}: expected name=value")
        values[name.strip()], origin[name.strip()] = value.strip(), "--set"
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise UsageError(_explain(error, origin)) from error


def _explain(error: ValidationError, origin: Mapping[str, str]) -> str:
    lines = []
    for detail in error.errors():
        name = ".".join(str(part) for part in detail["loc"])
        if detail["type"] == "extra_forbidden":
            known = ", ".join(sorted(Settings.model_fields))
            lines.append(f"unknown setting `{name}` (from {origin.get(name, '?')}); known are: {known}")
        elif detail["type"] == "missing":
            lines.append(f"setting `{name}` is in no file of conf/settings")
        else:
            allowed = detail["msg"].removeprefix("Value error, ")
            lines.append(
                f"setting `{name}` (from {origin.get(name, '?')}) is {detail['input']!r}; allowed is: {allowed}"
            )
    return "; ".join(lines)
