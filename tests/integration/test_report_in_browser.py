"""The report in a real browser: it draws, its pickers work, it is accessible, and no text of the lake runs as code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from report.__main__ import write_report
from report.figures import read_figures
from tests.support.kpi_lake import HOSTILE, make_kpi_lake
from tools.browser import BROWSERS, find_browser, get_playwright

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(find_browser() is None, reason=f"none of {', '.join(BROWSERS)} is on this machine"),
]
PHONE = {"width": 360, "height": 780}


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_kpi_lake(tmp_path_factory.mktemp("lake"), days=40, genres=4, jump=3)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    get_playwright()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(lake: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(str(lake), tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture
def page(browser: Any, address: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The page, drawn; at the end, no request but that for the page has been made and nothing was complained of."""
    page = browser.new_page(**getattr(request, "param", {}))
    complaints: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type != "log" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda made: requests.append(made.url))
    page.goto(address)
    page.wait_for_selector("html[data-drawn]", timeout=60_000)
    yield page
    assert complaints == []
    assert requests == [address]
    page.close()


def test_every_chart_draws_and_no_text_runs(page: Any) -> None:
    assert page.locator(".chart").count() == page.locator(".chart svg").count() >= 14
    assert page.locator(".chart svg path, .chart svg line").count() > 100
    assert page.evaluate("window.broken") is None
    assert page.locator("img").count() == 0


def test_pickers_choose_what_chart_and_table_show(page: Any, lake: Path) -> None:
    songs = read_figures(str(lake)).tables["songs"]
    card = page.locator("#top-songs")
    card.get_by_role("combobox", name="Genre").select_option("genre 2")
    card.get_by_role("combobox", name="Date").select_option("2024-02-03")
    page.wait_for_function("document.querySelector('#top-songs .chart').textContent.includes('Song 2.2')")
    expected = [
        [str(row["rank"]), row["song"], row["artists"], str(row["plays"])]
        for row in songs
        if (str(row["date"]), row["genre"]) == ("2024-02-03", "genre 2")
    ]
    shown = card.locator("tbody tr").all()
    assert [[cell.text_content() for cell in row.locator("td").all()][2:] for row in shown] == expected
    assert HOSTILE in expected[0]


def test_data_tables_equal_the_figures(page: Any, lake: Path) -> None:
    card = page.locator("#listens-and-listeners-by-day")
    card.locator("summary").click()
    rows = [[cell.text_content() for cell in row.locator("td").all()] for row in card.locator("tbody tr").all()]
    days = read_figures(str(lake)).tables["days"]
    assert rows == [
        [str(row["date"]), f"{row['listens']:,}", f"{row['listeners']:,}", f"{row['hours_listened']:g}"] for row in days
    ]


def test_keyboard_reaches_links_pickers_and_tables(page: Any) -> None:
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.tagName"))
    assert {"A", "BUTTON", "SELECT", "SUMMARY", "DIV"} <= reached


def test_colours_can_be_chosen(page: Any) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.get_by_role("button", name="Use dark colours").click()
    assert page.evaluate(background) != light
    page.get_by_role("button", name="Use light colours").click()
    assert page.evaluate(background) == light


@pytest.mark.parametrize(
    "page",
    [{"color_scheme": "light"}, {"color_scheme": "dark", "viewport": PHONE}],
    indirect=True,
    ids=["wide, light", "phone, dark"],
)
def test_axe_finds_nothing_serious_and_nothing_overflows(page: Any) -> None:
    from axe_playwright_python.sync_playwright import Axe

    for summary in page.locator("details:not([open]) > summary").all():
        if summary.is_visible():
            summary.click()
    violations = Axe().run(page).response["violations"]
    assert [
        (one["id"], one["nodes"][0]["html"]) for one in violations if one["impact"] in ("serious", "critical")
    ] == []
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
