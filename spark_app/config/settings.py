"""The application's settings: typed, checked before Spark starts, from files, environment and `--set`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from kpi_common.conf_files import CONF_DIR_VARIABLE, conf_dirs, conf_file, load_toml
from kpi_common.preflight import FileLimits
from spark_app.errors import UsageError

ENVIRONMENT_PREFIX = "MUSIC_KPIS_"
# Variables of the delivery and of the DAG (`dags/`), and where conf/ is: not ours to judge.
_NOT_SETTINGS = (f"{ENVIRONMENT_PREFIX}DYNAMODB_", f"{ENVIRONMENT_PREFIX}DAG_", CONF_DIR_VARIABLE)


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError("an IANA time zone such as UTC or Europe/Berlin") from error
    return name


TimeZone = Annotated[str, AfterValidator(_known_zone)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class Settings(BaseSettings):
    """All settings of a run; `conf/settings/default.toml` says what each one means."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    environment: str  # whose file of conf/settings goes over the default one
    kpi_time_zone: TimeZone
    source_time_zone: TimeZone
    max_quarantined_share: Share
    max_waiting_share: Share
    in_future_tolerance_hours: Annotated[float, Field(ge=0)]
    allow_name_reuse: bool
    max_files: Count
    max_bytes: Count
    max_line_bytes: Annotated[int, Field(ge=256 * 1024, le=32 * 1024 * 1024)]
    max_blank_lines: Annotated[int, Field(ge=0)]
    max_unpacked_bytes: Count
    max_compression_ratio: Count
    max_gzip_members: Count
    max_genres_per_file: Count
    max_dates_per_file: Count
    lock_lease_seconds: Annotated[float, Field(ge=1, le=3600)]
    lock_wait_seconds: Annotated[float, Field(ge=0)]
    export_part_items: Count
    retention_days: Annotated[int, Field(ge=0)]
    quarantine_days: Annotated[int, Field(ge=0)]
    forget_key: str
    inspect_on_driver_bytes: Annotated[int, Field(ge=0)]
    rows_per_data_file: Annotated[int, Field(ge=1000)]
    songs_source: str
    users_source: str
    songs_table: str
    users_table: str
    database_secret: str
    database_iam_user: str
    database_ca_file: str
    database_updated_at: Annotated[str, Field(pattern=r"^[A-Za-z_0-9]*$")]
    database_rows_per_read: Annotated[int, Field(ge=1000)]
    glue_database: Annotated[str, Field(pattern=r"^[a-z0-9_]{0,252}$")]
    glue_spectrum_database: Annotated[str, Field(pattern=r"^[a-z0-9_]{0,252}$")]
    usd_per_vcpu_hour: Annotated[float, Field(ge=0)]
    usd_per_gb_hour: Annotated[float, Field(ge=0)]

    @field_validator("glue_spectrum_database")
    @classmethod
    def _in_a_database_of_its_own(cls, name: str, others: ValidationInfo) -> str:
        if name and name == others.data.get("glue_database"):
            raise ValueError("another name than glue_database, which has tables of the same names")
        return name

    @property
    def file_limits(self) -> FileLimits:
        """Those for the look at a file's bytes."""
        return FileLimits(**{name: getattr(self, name) for name in FileLimits.__dataclass_fields__})

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What is given by name wins over variables, these over the environment's file, that over the default one."""
        environment = init_settings()["environment"]
        lower = (_variables(), load_toml(f"settings/{environment}.toml"), load_toml("settings/default.toml"))
        return init_settings, *(InitSettingsSource(settings_cls, dict(values)) for values in lower)


def load_settings(env: str, assignments: Sequence[str] = ()) -> Settings:
    """Read the settings of all sources, later ones first: files, variables `MUSIC_KPIS_…`, `--set name=value`.

    Raises:
        UsageError: an unknown environment or setting, or a value that is not allowed; all of them at once.
    """
    if not conf_file(f"settings/{env}.toml").is_file():
        known = sorted({p.stem for folder in conf_dirs() for p in folder.glob("settings/*.toml")} - {"default"})
        raise UsageError(f"--env {env}: unknown environment; known are: {', '.join(known)}")
    assigned = dict(map(_split, assignments))
    try:
        return Settings(**{"environment": env, **assigned})  # type: ignore[arg-type]
    except ValidationError as error:
        raise UsageError("; ".join(_explain(error, assigned))) from error


def _split(assignment: str) -> tuple[str, str]:
    name, separator, value = assignment.partition("=")
    if not separator:
        raise UsageError(f"--set {assignment}: expected name=value")
    return name.strip(), value.strip()


def _variables() -> dict[str, str]:
    """Of the environment, also what is no setting, so that it is reported as unknown."""
    ours = (name for name in os.environ if name.startswith(ENVIRONMENT_PREFIX) and not name.startswith(_NOT_SETTINGS))
    return {name.removeprefix(ENVIRONMENT_PREFIX).lower(): os.environ[name] for name in ours}


# What pydantic says in its own words, in ours.
_ALLOWED = {
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "finite_number": "a number that is not infinite",
    "bool_parsing": "true or false",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
}


def _explain(error: ValidationError, assigned: Mapping[str, str]) -> list[str]:
    lines = []
    for detail in error.errors():
        name = ".".join(str(part) for part in detail["loc"])
        variable = f"{ENVIRONMENT_PREFIX}{name.upper()}" if name in _variables() else "conf/settings"
        origin = "--set" if name in assigned else variable
        if detail["type"] == "extra_forbidden":
            known = ", ".join(sorted(set(Settings.model_fields) - {"environment"}))
            lines.append(f"unknown setting `{name}` (from {origin}); known are: {known}")
        elif detail["type"] == "missing":
            lines.append(f"setting `{name}` is in no file of conf/settings")
        else:
            words = _ALLOWED.get(detail["type"], detail["msg"].removeprefix("Value error, "))
            allowed = words.format(**detail.get("ctx", {}))
            lines.append(f"setting `{name}` (from {origin}) is {detail['input']!r}; allowed is: {allowed}")
    return lines
