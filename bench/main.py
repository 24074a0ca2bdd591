"""`./build.sh bench`: our job beside others that do the same work, in alternation, as ratios.

Makes the data once, runs each way as a process of its own, several rounds, checks that all find the same figures, and
prints medians, spread, ratios and memory. JSON and a plot go to .build/bench/.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from bench.api import api
from bench.catalogue import catalogue
from bench.compare import differences
from bench.data import DAYS, Shape, cached_data, make_corrections, make_data
from bench.delivery import delivery
from bench.ledger import ledger
from bench.measure import BenchError, Measurement, measure, steps_of
from bench.split import split
from tools.class_archive import make_archive
from tools.processes import StoppedBySignal, signals_raise
from tools.spark_submit import spark_home, submit_command, submit_environment
from tools.toolchain import BUILD, LOCKS, ROOT, get_own_venv, say

FOLDER = BUILD / "bench"
OF_A_DAY = 55_000
LATE_DAYS = (1, 4, 16, 64)
SMALL = 2_000_000  # listens below which a run is over before Java would have optimised its code


@dataclass(frozen=True)
class Way:
    """One way to do the work: its command for an input and an output folder, and its environment.

    `most` is the largest number of listens that it is tried with.
    """

    name: str
    command: Callable[[Path, Path], list[str]]
    environment: Callable[[int], Mapping[str, str]]
    most: int | None = None


def ours(source: Path, target: Path) -> list[str]:
    """Our job: from CSV to the export."""
    return submit_command(["run", "--input", str(source), "--lake", str(target), "--log-format", "json"])


def plain(source: Path, target: Path) -> list[str]:
    """Plain PySpark, with the same memory."""
    script = str(ROOT / "bench" / "plain_pyspark.py")
    options = ["--master", "local[*]", "--driver-memory", "3g", "--conf", "spark.ui.enabled=false"]
    return [str(spark_home() / "bin" / "spark-submit"), *options, script, str(source), str(target)]


def duckdb(source: Path, target: Path) -> list[str]:
    """DuckDB, with the memory that a Spark driver of 3 GB takes."""
    return [sys.executable, "-m", "bench.duckdb_job", str(source), str(target), "3.5GB"]


def in_memory(script: str) -> Callable[[Path, Path], list[str]]:
    """A script that holds all listens at once."""

    def command(source: Path, target: Path) -> list[str]:
        python = get_own_venv(FOLDER / "venv", LOCKS / "bench.txt", "pandas and Polars")
        return [str(python), str(ROOT / "bench" / script), str(source), str(target)]

    return command


WAYS = (
    Way("ours", ours, lambda listens: submit_environment(os.environ, short_run=listens < SMALL)),
    Way("plain PySpark", plain, lambda _: submit_environment(os.environ)),
    Way("DuckDB", duckdb, lambda _: {**os.environ, "PYTHONPATH": str(ROOT), "TZ": "UTC"}),
    Way("Polars", in_memory("polars_job.py"), lambda _: {**os.environ, "TZ": "UTC"}),
    Way("pandas", in_memory("pandas_job.py"), lambda _: {**os.environ, "TZ": "UTC"}, most=5_000_000),
)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="./build.sh bench", description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000_000, metavar="N", help="listens (default: 20,000,000)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="runs of each way (default: 3)")
    parser.add_argument(
        "--shape",
        choices=["hourly", "daily"],
        default="hourly",
        help="files as they arrive, 24 per day with late listens and copies (default), or one file per day",
    )
    choices = [*(way.name for way in WAYS), *SCENARIOS]
    parser.add_argument("--only", action="append", choices=choices, help="leave the others out; may be repeated")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Run what was asked for; exit code 1 if a way fails or finds other figures."""
    options = parse(arguments)
    chosen = options.only or [*(way.name for way in WAYS), *SCENARIOS]
    results: dict[str, Any] = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine()}
    try:
        with signals_raise():
            ways = [way for way in WAYS if way.name in chosen]
            if ways:
                make_archive(("delta",))
                results["side by side"] = side_by_side(ways, options.rows, options.rounds, options.shape)
            for name, scenario in SCENARIOS.items():
                if name in chosen:
                    results[name] = scenario(options)
    except StoppedBySignal as stop:
        return stop.exit_code
    except BenchError as error:
        say(f"error: {error}")
        return 1
    path = FOLDER / f"results-{datetime.now(UTC):%Y%m%dT%H%M%S}.json"
    path.write_text(json.dumps(results, indent=1), "utf-8")
    print(f"\nresults: {path.relative_to(ROOT)}")
    return 0


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    import psutil

    return {"cores": psutil.cpu_count(), "memory_gb": round(psutil.virtual_memory().total / 2**30)}


# --- the ways side by side ---


def side_by_side(ways: Sequence[Way], listens: int, rounds: int, shape: Shape) -> dict[str, Any]:
    """Run all ways `rounds` times in alternation; results are compared once, in the first round."""
    source = cached_data(listens, DAYS if listens >= SMALL else 1, shape)
    left_out = [way for way in ways if way.most is not None and listens > way.most]
    for way in left_out:
        say(f"{way.name} is left out: it holds all listens in memory, and is tried with up to {way.most:,}")
    ways = [way for way in ways if way not in left_out]
    runs: dict[str, list[Measurement]] = {way.name: [] for way in ways}
    steps: list[list[dict[str, Any]]] = []
    for number in range(rounds):
        for way in ways:
            target = output(way.name)
            run = measure(way.command(source, target), way.environment(listens), FOLDER / f"{target.name}.log")
            runs[way.name].append(run)
            say(f"round {number + 1} of {rounds}: {way.name}: {run.seconds:.1f} s, {run.memory_mb:,.0f} MB")
        if number == 0:
            check_results(ways)
        if "ours" in runs:
            steps.append(steps_of(FOLDER / "out-ours"))
    show_ways(listens, runs)
    show_steps(steps)
    plot(listens, runs)
    return {
        "listens": listens,
        "shape": shape,
        "runs": {name: [asdict(run) for run in of] for name, of in runs.items()},
        "steps": steps,
    }


def output(name: str) -> Path:
    """Return an empty folder for a way's results."""
    folder = FOLDER / f"out-{name.lower().replace(' ', '-')}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def check_results(ways: Sequence[Way]) -> None:
    """Raise BenchError if a way found other figures than ours."""
    if "ours" not in {way.name for way in ways}:
        return
    for way in ways:
        if way.name == "ours":
            continue
        found = differences(FOLDER / "out-ours", FOLDER / f"out-{way.name.lower().replace(' ', '-')}")
        if found:
            raise BenchError(f"{way.name} finds other figures than ours: {'; '.join(found)}")
        say(f"{way.name}: same figures as ours")


# --- other questions ---


def small(options: argparse.Namespace) -> dict[str, Any]:
    """What a run of 35,000 listens costs, and a run with nothing new after it."""
    found = side_by_side(WAYS, 35_000, options.rounds, options.shape)
    again = [run_again(35_000, options.shape) for _ in range(options.rounds)]
    plain_seconds = [run["seconds"] for run in found["runs"]["plain PySpark"]]
    ratio = statistics.median(run.seconds for run in again) / statistics.median(plain_seconds)
    print(f"nothing new: {spread([run.seconds for run in again])} s, {ratio:.2f} × plain PySpark's run")
    return found | {"nothing new": [asdict(run) for run in again]}


def run_again(listens: int, shape: Shape) -> Measurement:
    """Run on the lake that the last round left."""
    source, lake = cached_data(listens, 1, shape), FOLDER / "out-ours"
    return measure(ours(source, lake), WAYS[0].environment(listens), FOLDER / "again.log")


def growth(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds a million listens, as their number grows."""
    found = {}
    for millions in (5, 10, 20, 50):
        source = cached_data(millions * 1_000_000, DAYS, options.shape)
        seconds = []
        for _ in range(options.rounds):
            target = output("growth")
            run = measure(ours(source, target), WAYS[0].environment(SMALL), FOLDER / "growth.log")
            seconds.append(run.seconds)
        found[f"{millions} million"] = seconds
        each = statistics.median(seconds) / millions
        print(f"{millions:>3} million listens: {spread(seconds)} s, {each:.2f} s a million")
    return found


def new_day(options: argparse.Namespace) -> dict[str, Any]:
    """What files of 55,000 listens cost: a new day on an empty lake and on a year of history, late ones of k days."""
    base = output("history")
    run = measure(ours(cached_data(20_000_000, 365, "daily"), base), WAYS[0].environment(SMALL), FOLDER / "history.log")
    say(f"the year before, 20 million listens: {run.seconds:.1f} s")
    for manifest in base.glob("exports/*/manifest.json"):  # delivered, or each run would export the year once more
        manifest.with_name("delivered.json").write_text("{}", "utf-8")
    cases: dict[str, tuple[Path | None, Path]] = {
        "a new day, empty lake": (None, the_day_after()),
        "a new day, after a year": (base, the_day_after()),
    }
    cases |= {f"late, touching {days} days of the year": (base, late(days)) for days in LATE_DAYS}
    found: dict[str, list[dict[str, float]]] = {case: [] for case in cases}
    for number in range(options.rounds):
        for case, (before, source) in cases.items():
            lake = output("day")
            if before is not None:
                shutil.copytree(before, lake, dirs_exist_ok=True)
            run = measure(ours(source, lake), WAYS[0].environment(35_000), FOLDER / "day.log")
            found[case].append({**steps_of(lake)[-1], "seconds": run.seconds})
            say(f"round {number + 1} of {options.rounds}: {case}: {run.seconds:.1f} s")
    show_cases(found)
    return found


def corrections(options: argparse.Namespace) -> dict[str, Any]:
    """What some files sent again with corrections cost, after a run on all of them; held against DuckDB's figures."""
    source = cached_data(options.rows, DAYS if options.rows >= SMALL else 1, options.shape)
    sent_again, corrected, lake = FOLDER / "data-sent-again", FOLDER / "data-corrected", output("ours")
    for folder in (sent_again, corrected):
        shutil.rmtree(folder, ignore_errors=True)
    make_corrections(source, sent_again, corrected)
    first = measure(ours(source, lake), WAYS[0].environment(options.rows), FOLDER / "corrections.log")
    again = measure(ours(sent_again, lake), WAYS[0].environment(options.rows), FOLDER / "corrections.log")
    measure(duckdb(corrected, output("DuckDB")), WAYS[2].environment(options.rows), FOLDER / "corrections.log")
    found = differences(lake, FOLDER / "out-duckdb")
    if found:
        raise BenchError(f"after corrections, DuckDB finds other figures than ours: {'; '.join(found)}")
    for case, run in {"all files": first, "some of them sent again": again}.items():
        print(f"{case}: {run.seconds:.1f} s, {run.cpu_seconds:.0f} CPU s; same figures as DuckDB after both")
    return {"first": asdict(first), "sent again": asdict(again)}


def the_day_after() -> Path:
    """Return an input with the day that follows the year, and the same songs and users."""
    return make_data(FOLDER / "data-day-after", OF_A_DAY, 1, date(2027, 1, 1))


def late(days: int) -> Path:
    """Return an input with so many listens as a day has, spread over some days in the middle of the year."""
    return make_data(FOLDER / f"data-late-{days}", OF_A_DAY, days, date(2026, 6, 1), name="late-{day}")


SCENARIOS: Mapping[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "small": small,
    "growth": growth,
    "new-day": new_day,
    "corrections": corrections,
    "delivery": delivery,
    "ledger": ledger,
    "catalogue": catalogue,
    "split": split,
    "api": api,
}


# --- showing ---


def spread(values: Sequence[float]) -> str:
    """Return median and range as text."""
    return f"{statistics.median(values):.1f} ({min(values):.1f}–{max(values):.1f})"


def show_ways(listens: int, runs: Mapping[str, Sequence[Measurement]]) -> None:
    """Print the ways' medians, spread, ratios and memory."""
    from rich.console import Console
    from rich.table import Table

    table = Table("way", "seconds (median, range)", "CPU s", "ours ÷ this", "peak MB", title=f"{listens:,} listens")
    own = statistics.median(run.seconds for run in runs["ours"]) if "ours" in runs else None
    for name, of in runs.items():
        seconds = statistics.median(run.seconds for run in of)
        ratio = f"{own / seconds:.2f}" if own is not None else ""
        cpu = statistics.median(run.cpu_seconds for run in of)
        table.add_row(
            name, spread([r.seconds for r in of]), f"{cpu:.0f}", ratio, f"{max(r.memory_mb for r in of):,.0f}"
        )
    Console().print(table)


def show_steps(rounds: Sequence[Sequence[Mapping[str, Any]]]) -> None:
    """Print what our steps took and moved: medians of the rounds; steps of under 0.1 s are left out."""
    from rich.console import Console
    from rich.table import Table

    if not rounds:
        return
    columns = ("seconds", "cpu_seconds", "input_bytes", "output_bytes", "shuffle_bytes", "spilled_bytes")
    heads = ("seconds", "CPU s of tasks", "MB read", "MB written", "MB shuffled", "MB spilled")
    table = Table("step", *heads, title="our steps")
    for position, step in enumerate(rounds[0]):
        of = [statistics.median(steps[position].get(column, 0) for steps in rounds) for column in columns]
        if of[0] >= 0.1:
            table.add_row(step["name"], *(f"{value:.1f}" for value in of[:2]), *(f"{v / 1e6:,.1f}" for v in of[2:]))
    Console().print(table)


def show_cases(cases: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """Print seconds and bytes of runs that are compared with the first of them."""
    from rich.console import Console
    from rich.table import Table

    table = Table("case", "seconds (median, range)", "÷ the first", "MB read", "MB written", "MB shuffled")
    first = None
    for case, runs in cases.items():
        seconds = [run["seconds"] for run in runs]
        first = first or statistics.median(seconds)
        moved = [
            statistics.median(run.get(name, 0) for run in runs) / 1e6
            for name in ("input_bytes", "output_bytes", "shuffle_bytes")
        ]
        table.add_row(
            case, spread(seconds), f"{statistics.median(seconds) / first:.2f}", *(f"{value:,.1f}" for value in moved)
        )
    Console().print(table)


def plot(listens: int, runs: Mapping[str, Sequence[Measurement]]) -> None:
    """Draw the ways' medians as bars."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 0.6 * len(runs) + 1.2), layout="constrained")
    medians = [statistics.median(run.seconds for run in of) for of in runs.values()]
    axes.bar_label(axes.barh(list(runs), medians), fmt="%.1f s", padding=3)
    axes.set(xlabel="seconds", title=f"{listens:,} listens, CSV to KPIs")
    axes.invert_yaxis()
    figure.savefig(FOLDER / f"ways-{listens}.svg")
    plt.close(figure)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
