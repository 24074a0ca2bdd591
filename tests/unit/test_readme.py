"""What the pages show works as shown."""

import re
import textwrap
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

from chispa import assert_df_equality
from pyspark.sql import SparkSession

from spark_app.config.dynamodb_layout import KpiTable
from spark_app.kpis.definition import Kpi, KpiInputs
from tools.toolchain import ROOT

PAGES = {
    path: path.read_text("utf-8")
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "tests" / "README.md")
}


def example(language: str) -> str:
    """The only block of code in this language on how to add a KPI."""
    (block,) = re.findall(rf"^ *```{language}\n(.*?)^ *```$", PAGES[ROOT / "CONTRIBUTING.md"], re.MULTILINE | re.DOTALL)
    return textwrap.dedent(block)


def test_the_worked_example_computes_a_kpi(spark: SparkSession) -> None:
    namespace: dict[str, Any] = {}
    exec(example("python"), namespace)  # noqa: S102 (the point of this test)
    kpi = namespace["KPI"]
    assert isinstance(kpi, Kpi)
    plays = spark.createDataFrame(
        [("2024-06-24", "a", "pop", 3), ("2024-06-24", "b", "pop", 1), ("2024-06-25", "a", "rock", 2)],
        "listen_date string, track_id string, track_genre string, play_count bigint",
    )
    expected = spark.createDataFrame(
        [("2024-06-24", "pop", 2), ("2024-06-25", "rock", 1)],
        "listen_date string, track_genre string, unique_tracks bigint",
    )
    found = kpi.compute(KpiInputs(*[plays] * len(fields(KpiInputs))))
    assert_df_equality(found, expected, ignore_row_order=True, ignore_nullable=True)


def test_the_worked_example_has_a_layout_that_is_accepted() -> None:
    tables = tomllib.loads(example("toml"))["tables"]
    assert KpiTable.model_validate(tables["genre_variety"]).sort_key == "genre"


def test_links_lead_somewhere() -> None:
    links = [(page, link) for page, text in PAGES.items() for link in re.findall(r"\]\(([^):]+)\)", text)]
    assert links
    assert [(page.name, link) for page, link in links if not leads_somewhere(page, *link.partition("#")[::2])] == []


def leads_somewhere(page: Path, path: str, anchor: str) -> bool:
    """Whether a link's file is there, and in a page the heading that it names."""
    target = (page.parent / path).resolve() if path else page
    if target not in PAGES:
        return target.exists()
    headings = re.findall(r"^#+ (.*)$", PAGES[target], re.MULTILINE)
    return anchor in {"", *(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)}


def test_commands_that_are_named_exist() -> None:
    build = (ROOT / "build.sh").read_text("utf-8")
    commands = {command for text in PAGES.values() for command in re.findall(r"\./build\.sh (\w+)", text)}
    assert [command for command in sorted(commands) if f"cmd_{command}()" not in build] == []
