"""The Spark options of a job on EMR Serverless: data in conf/spark, given to EMR as `sparkSubmitParameters`.

Defaults inside a custom image are not read there, so each job brings its own.
"""

from __future__ import annotations

from collections.abc import Mapping

from kpi_common.conf_files import conf_dir
from kpi_pipeline.errors import UsageError


def spark_properties(environment: str) -> dict[str, str]:
    """Read `conf/spark/<environment>.conf`.

    Raises:
        UsageError: there is no such file, or a line is not `name value`.
    """
    path = conf_dir() / "spark" / f"{environment}.conf"
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
