"""The page: one HTML file that needs no network and runs no script but its own.

Texts of the lake (names of songs!) reach the page as JSON and through `html.escape` only, and a policy in the page's
head lets the browser run just the scripts whose hashes it names.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from report.charts import AnyChart, Card, cards
from report.figures import Figures, Tables

SECTIONS = ("Music", "Quality", "Run")


def write_page(figures: Figures, target: Path, libraries: str, now: datetime | None = None) -> None:
    """Write the report; whoever reads the old one meanwhile sees it whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    partial.write_text(page(figures, libraries, now or datetime.now(UTC)), encoding="utf-8")
    partial.replace(target)


def page(figures: Figures, libraries: str, now: datetime) -> str:
    """Return the page; `libraries` is the JavaScript that draws Vega-Lite charts (`vegaEmbed`)."""
    shown = cards(figures.tables)
    scripts = [_script(libraries), _script(_asset("page.js"))]
    return Template(_asset("page.html")).substitute(
        policy=_policy(scripts),
        style=_asset("page.css"),
        lake=escape(figures.lake),
        time_zone=escape(figures.time_zone),
        now=f"{now:%Y-%m-%d %H:%M} UTC",
        tiles="\n".join(_tile(*tile) for tile in tiles(figures.tables)),
        navigation="\n".join(f'<a href="#{section.lower()}">{section}</a>' for section in SECTIONS),
        sections="\n".join(_section(section, shown) for section in SECTIONS),
        data=_json(_payload(figures.tables, shown)),
        libraries=scripts[0],
        script=scripts[1],
    )


def tiles(tables: Tables) -> list[tuple[str, str, str]]:
    """Return the figures at the top: what, how much, and a note."""
    days, runs = tables["days"], tables["runs"]
    if not days:
        return [("Listens", "0", "no KPIs in this lake yet")]
    last = days[-1]
    found = [
        ("Listens", f"{sum(row['listens'] for row in days):,}", f"{days[0]['date']} to {last['date']}"),
        ("Listens of the last day", f"{last['listens']:,}", _change(days)),
    ]
    if last["listeners"] is not None:
        found.append(("Listeners of the last day", f"{last['listeners']:,}", str(last["date"])))
        found.append(("Hours listened", f"{sum(row['hours_listened'] or 0 for row in days):,.0f}", "all days"))
    scores = [row for row in runs if row["score"] is not None]
    if scores:
        found.append(("Quality score", f"{scores[-1]['score']:g}", "of 100, last run with new rows"))
    return found


def _change(days: Sequence[dict[str, Any]]) -> str:
    if len(days) < 2 or not days[-2]["listens"]:
        return str(days[-1]["date"])
    return f"{days[-1]['listens'] / days[-2]['listens'] - 1:+.1%} to the day before"


def _tile(label: str, value: str, note: str) -> str:
    return f"<li><span>{escape(label)}</span><strong>{escape(value)}</strong><small>{escape(note)}</small></li>"


def _section(section: str, shown: Sequence[Card]) -> str:
    inside = "\n".join(_card(card) for card in shown if card.section == section)
    name = section.lower()
    return (
        f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">{section}</h2>'
        f'<div class="cards">{inside}</div></section>'
    )


def _card(card: Card) -> str:
    pickers = "".join(
        f'<label>{escape(column.capitalize())} <select data-column="{escape(column)}"></select></label>'
        for column in card.pickers
    )
    chart = '<div class="chart"></div>' if card.chart is not None else ""
    return (
        f'<article class="card{" wide" if card.wide else ""}" id="{card.name}" aria-labelledby="{card.name}-title">'
        f'<h3 id="{card.name}-title">{escape(card.title)}</h3><p>{escape(card.note)}</p>'
        f'{f"""<div class="pickers">{pickers}</div>""" if pickers else ""}{chart}'
        f'<p class="empty" hidden>{escape(card.if_empty)}</p>'
        f"<details{' open' if card.table_open or card.chart is None else ''}><summary>Data table</summary>"
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(card.title)}: data table"></div>'
        f"</details></article>"
    )


def _payload(tables: Tables, shown: Sequence[Card]) -> dict[str, Any]:
    """Rows as lists, the columns' names once: a third of the size that objects would have."""
    return {
        "tables": {
            name: {"columns": list(rows[0]) if rows else [], "rows": [list(row.values()) for row in rows]}
            for name, rows in tables.items()
        },
        "cards": [
            {
                "name": card.name,
                "table": card.table,
                "title": card.title,
                "pickers": card.pickers,
                "spec": card.chart and _spec(card, card.chart),
            }
            for card in shown
        ],
    }


def _spec(card: Card, chart: AnyChart) -> dict[str, Any]:
    described = chart.properties(width="container", description=f"{card.title}. {card.note}")
    described.data = {"name": card.table}
    return {**described.to_dict(validate=False), "config": {}}


def _json(value: Any) -> str:
    """Return JSON that can stand in a script element: no `<` in it."""
    text = json.dumps(value, default=_plain, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"{type(value)} is no value of the report")


def _script(code: str) -> str:
    """Return code as it can stand in a script element."""
    return code.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _policy(scripts: Sequence[str]) -> str:
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{one}'" for one in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _asset(name: str) -> str:
    return files("report").joinpath(name).read_text(encoding="utf-8")
