"""`python -m tools.reference` writes docs/reference.md: KPIs, contracts and settings, from the code and `conf/`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence

from kpi_common.conf_files import load_toml
from kpi_common.contracts import Dataset, load_contract
from kpi_pipeline.settings import param_schemas
from spark_app.kpis import all_kpis
from tools.toolchain import ROOT

PAGE = ROOT / "docs" / "reference.md"
HEAD = """# Reference: KPIs, contracts, settings

Made from the code and [conf/](../conf) by `python -m tools.reference`; a test compares it. Change those, not this page.
"""


def reference() -> str:
    """Return the page."""
    return "\n".join([HEAD, *_kpis(), *_contracts(), *_settings(), *_pipeline_settings()]).rstrip() + "\n"


def _kpis() -> Iterator[str]:
    yield "## KPIs\n"
    tables = load_toml("dynamodb/kpi_tables.toml")["tables"]
    for kpi in all_kpis():
        about = inspect.getdoc(inspect.getmodule(kpi.compute))
        yield f"### kpis/{kpi.name}\n"
        yield f"{about} Key: {', '.join(f'`{column}`' for column in kpi.key)}.\n"
        yield f"{inspect.getdoc(kpi.compute)}\n"
        if kpi.name in tables:
            table = tables[kpi.name]
            yield f"In DynamoDB: `{table['name']}`.\n"
            rows = [(f"`{name}`", one["type"], f"`{one['column']}`") for name, one in table["attributes"].items()]
            yield from _table(("attribute", "type", "from column"), rows)


def _contracts() -> Iterator[str]:
    yield "## Contracts\n"
    for dataset in Dataset:
        contract = load_contract(dataset)
        yield f"### {dataset}/*.csv\n"
        rows = [
            (f"`{column.name}`", column.type, "yes" if column.required else "", column.description)
            for column in contract.columns
        ]
        yield from _table(("column", "type", "required", "what it is"), rows)
        rules = [
            (
                f"`{rule.reason}`",
                f"`{rule.column}`",
                _bounds(rule.check, rule.min, rule.max),
                rule.severity,
                rule.description,
            )
            for rule in contract.rules
        ]
        yield from _table(("reason", "column", "check", "severity", "why"), rules)


def _bounds(check: str, lowest: object, highest: object) -> str:
    if check != "range":
        return check.replace("_", " ")
    return f"{'' if lowest is None else lowest} to {'' if highest is None else highest}".strip()


def _settings() -> Iterator[str]:
    yield "## Settings\n"
    yield "Of the Spark application; each can be set by `--set NAME=VALUE` or `MUSIC_KPIS_<NAME>`.\n"
    rows, comment = [], ""
    for line in (ROOT / "conf" / "settings" / "default.toml").read_text("utf-8").splitlines():
        if line.startswith("#"):
            comment = f"{comment} {line.lstrip('# ')}".strip()
        elif found := re.match(r"(\w+) = (.*)", line):
            rows.append((f"`{found[1]}`", f"`{found[2]}`", comment or "see the line above"))
            comment = ""
        else:
            comment = ""
    yield from _table(("setting", "default", "what it does"), rows)


def _pipeline_settings() -> Iterator[str]:
    yield "## Settings of the DAG\n"
    yield "Params of a run, else Airflow Variables: some have one of their own, all others are keys of"
    yield "`music_streaming_pipeline`; see [deploy.md](deploy.md).\n"
    schemas = param_schemas()
    rows = [(schema["section"], f"`{name}`", schema["description"]) for name, schema in schemas.items()]
    yield from _table(("of", "setting", "what it is"), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    if rows:
        yield _row(head)
        yield _row(["---"] * len(head))
        yield from (_row([str(cell).replace("|", "\\|") for cell in row]) for row in rows)
        yield ""


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
