"""The cards of the report: a chart (Vega-Lite, by Altair), what it is of, and the table it is drawn from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import altair as alt

from report.figures import CHECKED_DAYS, COMPARED_DAYS, DETAIL_DAYS, SAMPLES_PER_REASON, Tables

FEW_RUNS = 8
MANY_DAYS = 60  # from here on a day is a point of an area, not a bar
HEIGHT = 260
ROW_HEIGHT = 24
GOOD, NEUTRAL, BAD, SECOND = "#2a9d8f", "#8b95a5", "#d64e6a", "#e0793a"
OUTCOMES = {
    "accepted": GOOD,
    "valid": GOOD,
    "duplicates": NEUTRAL,
    "still_changing": NEUTRAL,
    "quarantined": SECOND,
    "rejected": BAD,
}


AnyChart = alt.Chart | alt.LayerChart | alt.FacetChart


@dataclass(frozen=True)
class Card:
    """One card: `table` names its rows; with `pickers` (column to first choice) it shows the rows chosen.

    A card without a chart is its table; `if_empty` is said where there are no rows.
    """

    section: str
    table: str
    title: str
    note: str
    chart: AnyChart | None = None
    pickers: Mapping[str, Any] = field(default_factory=dict)
    wide: bool = False
    table_open: bool = False
    if_empty: str = "Nothing yet."

    @property
    def name(self) -> str:
        """What the card is called in the page: letters and `-`."""
        return "-".join("".join(c if c.isalnum() else " " for c in self.title.lower()).split())


def cards(tables: Tables) -> list[Card]:
    """Return all cards in the order of the page."""
    return [*_music(tables), *_quality(tables), *_run(tables)]


# --- music ---


def _music(tables: Tables) -> list[Card]:
    days, songs = tables["days"], tables["songs"]
    last_day = days[-1]["date"] if days else None
    plays: dict[str, int] = {}
    for row in songs:
        plays[row["genre"]] = plays.get(row["genre"], 0) + row["plays"]
    biggest = max(plays, key=lambda genre: plays[genre], default=None)
    return [
        Card(
            "Music",
            "days",
            "Listens and listeners by day",
            "Each listen counts once." + (" The thick line is the mean of seven days." if len(days) >= 7 else ""),
            _by_day(len(days)),
            wide=True,
        ),
        Card(
            "Music",
            "week_hours",
            "When people listen",
            "Listens of an hour, on an average day of each weekday.",
            alt.Chart(height=HEIGHT)
            .mark_rect(cornerRadius=2)
            .encode(
                x=alt.X("hour:O", title="Hour", axis=alt.Axis(labelAngle=0, labelOverlap=True)),
                y=alt.Y("weekday:O", title=None, sort=["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]),
                color=alt.Color("listens_per_day:Q", title="Listens"),
                tooltip=_tips("weekday:N", "hour:O", "listens_per_day:Q", "listens:Q"),
            ),
        ),
        Card(
            "Music",
            "genres",
            "Top genres over time",
            "The genres with the most listens, by day or whole week. A listen counts in each genre of its song.",
            _genres(len({row["date"] for row in tables["genres"]})),
        ),
        Card(
            "Music",
            "songs",
            "Top songs",
            f"The three most played songs of a genre on a day, for the last {DETAIL_DAYS} days.",
            _ranking("song", "plays", "rank", ["song:N", "artists:N", "plays:Q"], rows=3),
            {"genre": biggest, "date": last_day},
            table_open=True,
        ),
        Card(
            "Music",
            "diversity",
            "Diversity of tracks",
            "Tracks per listen of each hour: 1 where no track was played twice. Median and range of a day's hours.",
            alt.layer(
                alt.Chart().mark_area(opacity=0.25).encode(x=_day(len(days)), y=_range("lowest:Q"), y2="highest:Q"),
                alt.Chart()
                .mark_line(point=len(days) <= MANY_DAYS)
                .encode(x=_day(len(days)), y="median:Q", tooltip=_tips("date:N", "lowest:Q", "median:Q", "highest:Q")),
                height=HEIGHT,
            ),
        ),
        Card(
            "Music",
            "artists",
            "Artists by hour",
            "Plays of the five most played artists of each hour.",
            alt.Chart(height=15 * (ROW_HEIGHT - 6))
            .mark_rect(cornerRadius=2)
            .encode(
                x=alt.X("hour:O", title="Hour", axis=alt.Axis(labelAngle=0, labelOverlap=True)),
                y=alt.Y("artist:N", title=None, sort=alt.EncodingSortField("plays", op="sum", order="descending")),
                color=alt.Color("plays:Q", title="Plays", aggregate="sum"),
                tooltip=_tips("artist:N", "hour:O", "plays:Q", "rank:O"),
            )
            .transform_joinaggregate(of_day="sum(plays)", groupby=["artist"])
            .transform_window(
                place="dense_rank()",
                sort=[alt.SortField("of_day", order="descending"), alt.SortField("artist")],
            )
            .transform_filter("datum.place <= 15"),
            {"date": last_day},
        ),
        Card(
            "Music",
            "countries",
            "Countries",
            "Listens of all days, by the country of the listener. Listeners are those of the day with the most.",
            _ranking(
                "country",
                "listens",
                None,
                ["country:N", "listens:Q", "hours_listened:Q"],
                rows=min(15, len(tables["countries"])),
                most=15,
            ),
        ),
    ]


def _by_day(days: int) -> AnyChart:
    counts = _tips("date:N", "listens:Q", "listeners:Q", "hours_listened:Q")
    base = alt.Chart()
    listens = base.mark_bar(opacity=0.45) if days <= MANY_DAYS else base.mark_area(opacity=0.3)
    layers = [
        listens.encode(x=_day(days), y=alt.Y("listens:Q", title=None), color=alt.datum("Listens"), tooltip=counts),
        base.mark_line(point=days <= MANY_DAYS).encode(
            x=_day(days), y="listeners:Q", color=alt.datum("Listeners"), tooltip=counts
        ),
    ]
    if days >= 7:
        mean = base.transform_window(mean="mean(listens)", frame=[-6, 0]).mark_line(strokeWidth=2.5)
        layers.append(
            mean.encode(x=_day(days), y="mean:Q", color=alt.datum("Mean of 7 days"), tooltip=_tips("date:N", "mean:Q"))
        )
    return alt.layer(*layers, height=HEIGHT)


def _genres(days: int) -> AnyChart:
    chosen = alt.selection_point(fields=["genre"], bind="legend")
    chart: alt.Chart = (
        alt.Chart(height=HEIGHT)
        .mark_line(point=alt.OverlayMarkDef(size=18), strokeWidth=2)
        .encode(
            x=_day(days),
            y=alt.Y("listens:Q", title=None),
            color=alt.Color("genre:N", title=None),
            opacity=alt.condition(chosen, alt.value(1), alt.value(0.12)),
            tooltip=_tips("date:N", "genre:N", "listens:Q"),
        )
        .add_params(chosen)
    )
    return chart


# --- quality ---


def _quality(tables: Tables) -> list[Card]:
    runs = tables["runs"]
    lowest = int(min((row["score"] for row in runs if row["score"] is not None), default=0))
    return [
        Card(
            "Quality",
            "unusual",
            "What is unusual",
            f"Figures of the last {CHECKED_DAYS} days that are far from the median of the {COMPARED_DAYS} days before.",
            wide=True,
            if_empty="Nothing is unusual (or there are fewer than five days to compare with).",
        ),
        Card(
            "Quality",
            "runs",
            "Quality score",
            "Of 100 rows read in a run, those that are no bad rows and in no rejected file.",
            _over_runs("line", "score", len(runs), alt.Scale(domain=[max(0, lowest - 2), 100])),
            wide=True,
        ),
        Card(
            "Quality",
            "file_outcomes",
            "Files by outcome",
            "Files that each run judged.",
            _outcomes("files", tables["file_outcomes"], len(runs)),
        ),
        Card(
            "Quality",
            "row_outcomes",
            "Rows by outcome",
            "Each row of an accepted file of listens has one outcome.",
            _outcomes("rows", tables["row_outcomes"], len(runs)),
        ),
        Card(
            "Quality",
            "reasons",
            "Why rows were set aside",
            "Quarantined rows by reason; a row can have several.",
            _ranking(
                "reason",
                "rows",
                None,
                ["dataset:N", "reason:N", "rows:Q"],
                rows=min(20, len(tables["reasons"])),
                most=20,
            ),
            if_empty="No row is quarantined.",
        ),
        Card(
            "Quality",
            "nulls",
            "Missing values",
            "Share of rows without a value, by column, in the newest run that read the dataset.",
            alt.Chart(height=len(tables["nulls"]) * (ROW_HEIGHT - 6))
            .mark_bar(cornerRadiusEnd=3)
            .transform_calculate(label="datum.dataset + '.' + datum.column")
            .encode(
                x=alt.X("null_share:Q", title=None, axis=alt.Axis(format="~%")),
                y=alt.Y("label:N", title=None, sort=None),
                tooltip=[*_tips("dataset:N", "column:N"), alt.Tooltip("null_share:Q", format=".2%")],
            ),
        ),
        Card(
            "Quality",
            "samples",
            "Samples of rows set aside",
            f"Up to {SAMPLES_PER_REASON} rows of each reason, as they stand in their files.",
            wide=True,
            if_empty="No row is quarantined.",
        ),
    ]


def _outcomes(measure: str, rows: Sequence[Mapping[str, Any]], runs: int) -> AnyChart:
    present = {row["outcome"] for row in rows if row[measure]}
    known = {outcome: color for outcome, color in OUTCOMES.items() if outcome in present}
    colors = alt.Scale(domain=[*known, *sorted(present - set(known))], range=[*known.values(), SECOND, NEUTRAL])
    return _bars(runs).encode(
        x=_started(),
        y=alt.Y(f"{measure}:Q", title=None),
        color=alt.Color("outcome:N", title=None, scale=colors),
        tooltip=_tips("started:N", "outcome:N", f"{measure}:Q", "run:N"),
    )


# --- runs ---


def _run(tables: Tables) -> list[Card]:
    runs = len(tables["runs"])
    steps = max(Counter(row["run"] for row in tables["steps"]).values(), default=0)
    last_run = tables["runs"][-1]["run"] if runs else None
    read_written = (
        _bars(runs)
        .transform_fold(["read_mb", "written_mb"], as_=["what", "megabytes"])
        .encode(
            x=_started(),
            y=alt.Y("megabytes:Q", title=None),
            color=alt.Color("what:N", title=None),
            tooltip=_tips("started:N", "read_mb:Q", "written_mb:Q"),
        )
    )
    return [
        Card(
            "Run",
            "steps",
            "Steps of a run",
            "Seconds by the clock.",
            _ranking(
                "step",
                "seconds",
                None,
                ["step:N", "seconds:Q", "cpu_seconds:Q", "read_mb:Q"],
                rows=steps,
                keep_order=True,
            ),
            {"run": last_run},
        ),
        Card("Run", "runs", "Seconds", "How long each run took.", _over_runs("bar", "seconds", runs)),
        Card("Run", "runs", "Bytes", "What Spark read and wrote, in megabytes.", read_written),
        Card(
            "Run",
            "runs",
            "Cost",
            "What EMR Serverless would bill for each run, in US dollars.",
            _over_runs("bar", "usd", runs),
        ),
    ]


def _over_runs(mark: str, measure: str, runs: int, scale: alt.Scale | None = None) -> AnyChart:
    marked = alt.Chart(height=HEIGHT).mark_line(point=True) if mark == "line" else _bars(runs)
    y = alt.Y(f"{measure}:Q", title=None, scale=scale or alt.Undefined)
    return marked.encode(
        x=_started(), y=y, tooltip=_tips("started:N", f"{measure}:Q", "command:N", "status:N", "run:N")
    )


# --- what several charts share ---


def _ranking(
    name: str,
    measure: str,
    rank: str | None,
    tooltip: list[str],
    *,
    rows: int,
    most: int | None = None,
    keep_order: bool = False,
) -> AnyChart:
    """Horizontal bars with their figures, the first on top."""
    sort: Any = alt.EncodingSortField(rank, op="min") if rank else (None if keep_order else "-x")
    bars = alt.Chart().mark_bar(cornerRadiusEnd=3)
    encoded = bars.encode(
        x=alt.X(f"sum({measure}):Q", axis=None), y=alt.Y(f"{name}:N", title=None, sort=sort), tooltip=_tips(*tooltip)
    )
    figures = encoded.mark_text(align="left", dx=4).encode(text=alt.Text(f"sum({measure}):Q", format=",~r"))
    chart = alt.layer(encoded, figures, height=rows * ROW_HEIGHT)
    if most is None:
        return chart
    ranked = chart.transform_window(place="row_number()", sort=[alt.SortField(measure, order="descending")])
    return ranked.transform_filter(f"datum.place <= {most}")


def _tips(*columns: str) -> list[alt.Tooltip]:
    """Columns to show of what is pointed at; Altair takes ten times as long for a list of plain strings."""
    return [alt.Tooltip(column) for column in columns]


def _day(days: int) -> alt.X:
    if days <= MANY_DAYS:
        return alt.X("date:O", title=None, axis=alt.Axis(labelAngle=0, labelOverlap=True))
    return alt.X("utcyearmonthdate(date):T", title=None, axis=alt.Axis(labelOverlap=True))


def _started() -> alt.X:
    axis = alt.Axis(labelAngle=-40, labelOverlap=True, labelExpr="slice(datum.label, 0, 16)")
    return alt.X("started:O", title=None, axis=axis)


def _bars(runs: int) -> alt.Chart:
    """Bars over runs; a lone one is not to fill the chart."""
    band = alt.RelativeBandSize(band=min(0.8, runs / FEW_RUNS))
    bars: alt.Chart = alt.Chart(height=HEIGHT).mark_bar(width=band)
    return bars


def _range(column: str) -> alt.Y:
    return alt.Y(column, title=None, scale=alt.Scale(zero=False))
