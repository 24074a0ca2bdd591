"""Much at once, on one machine and within 4 GB: many listens or files, and odd shapes of them.

Each run is the application by `spark-submit` as users start it; its KPIs are DuckDB's, cell by cell, and each row has
one fate.
`KPI_LOAD_SHARE=0.01` makes all but the many files a hundred times smaller, for a quick look.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from bench.compare import differences
from bench.data import make_data
from bench.measure import measure
from kpi_common.conf_files import CONF_DIR_VARIABLE
from tools.spark_submit import submit_command, submit_environment
from tools.toolchain import BUILD, ROOT

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(3600)]
SHARE = float(os.environ.get("KPI_LOAD_SHARE", "1"))
MOST_MEMORY_MB = 4096
BLOCK = 1024 * 1024


def many_listens(folder: Path) -> Path:
    """50 million listens of 75 days."""
    return make_data(folder, int(50_000_000 * SHARE), 75)


def many_files(folder: Path) -> Path:
    """200,000 listens of one day in 2,000 files."""
    return _in_files(make_data(folder, 200_000, 1), 2_000)


def one_archive_of_one_genre(folder: Path) -> Path:
    """10 million listens of one day, all in one genre, in one gzip file of 1 GB unpacked, with a column more.

    Spark cannot split such a file.
    """
    source = make_data(folder, int(10_000_000 * SHARE), 1)
    _rewrite_songs(source, "* REPLACE ('the only one' AS track_genre)")
    (path,) = (source / "streams").glob("*.csv")
    listens = duckdb.read_csv(str(path), header=True, all_varchar=True)
    _rewrite(listens.select("*, repeat('Mozilla/5.0 ', 5) AS user_agent"), path)
    with path.open("rb") as text, gzip.open(f"{path}.gz", "wb", compresslevel=1) as packed:
        shutil.copyfileobj(text, packed, BLOCK)
    assert path.stat().st_size > 1e9 * SHARE
    path.unlink()
    return source


def ten_thousand_genres(folder: Path) -> Path:
    """2 million listens of 30 days, songs of 10,000 genres."""
    source = make_data(folder, int(2_000_000 * SHARE), 30)
    _rewrite_songs(source, "* REPLACE ('genre ' || id::BIGINT % 10000 AS track_genre)")
    return source


def two_thousand_artists(folder: Path) -> Path:
    """2 million listens of 30 days, 2,000 artists on each of 100 tracks."""
    source = make_data(folder, int(2_000_000 * SHARE), 30)
    artists = "array_to_string([format('Artist {}', (id::BIGINT + 7 * n) % 20000) for n in range(2000)], ';')"
    _rewrite_songs(source, f"* REPLACE (CASE WHEN id::BIGINT < 100 THEN {artists} ELSE artists END AS artists)")
    return source


def one_user(folder: Path) -> Path:
    """3 million listens of 30 days, 2 million of them of one user."""
    source = make_data(folder, int(3_000_000 * SHARE), 30)
    for path in (source / "streams").glob("*.csv"):
        listens = duckdb.read_csv(str(path), header=True, all_varchar=True)
        _rewrite(
            listens.select("* REPLACE (CASE WHEN hash(listen_time) % 3 < 2 THEN '7' ELSE user_id END AS user_id)"), path
        )
    return source


def one_hour(folder: Path) -> Path:
    """5 million listens of one hour."""
    source = make_data(folder, int(5_000_000 * SHARE), 1)
    (path,) = (source / "streams").glob("*.csv")
    listens = duckdb.read_csv(str(path), header=True, all_varchar=True)
    _rewrite(listens.select("* REPLACE (regexp_replace(listen_time, ' ..:', ' 12:') AS listen_time)"), path)
    return source


def tiny_files(folder: Path) -> Path:
    """100,000 listens of one day in 10,000 files."""
    return _in_files(make_data(folder, 100_000, 1), 10_000)


def one_file_of_a_year(folder: Path) -> Path:
    """2 million listens of 365 days in one file."""
    source = make_data(folder, int(2_000_000 * SHARE), 365)
    paths = sorted((source / "streams").glob("*.csv"))
    listens = duckdb.read_csv(str(source / "streams" / "*.csv"), header=True, all_varchar=True)
    year, newest = source / "streams" / "year.csv", paths[-1].stat().st_mtime
    listens.write_csv(str(year), header=True)
    os.utime(year, (newest, newest))
    for path in paths:
        path.unlink()
    return source


def _in_files(source: Path, files: int) -> Path:
    """Cut the one file of listens into so many."""
    (path,) = (source / "streams").glob("*.csv")
    header, *listens = path.read_bytes().splitlines(keepends=True)
    each = len(listens) // files
    for start in range(0, len(listens), each):
        (path.parent / f"{path.stem}-{start}.csv").write_bytes(header + b"".join(listens[start : start + each]))
    path.unlink()
    return source


def _rewrite_songs(source: Path, columns: str) -> None:
    path = source / "songs" / "songs.csv"
    _rewrite(duckdb.read_csv(str(path), header=True, all_varchar=True).select(columns), path)


def _rewrite(rows: duckdb.DuckDBPyRelation, path: Path) -> None:
    rows.write_csv(f"{path}.new", header=True)
    Path(f"{path}.new").replace(path)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Some gigabytes, gone afterwards."""
    path = BUILD / "load" / str(os.getpid())
    path.mkdir(parents=True)
    yield path
    shutil.rmtree(path)


LOADS: dict[Callable[[Path], Path], tuple[str, ...]] = {
    many_listens: (),
    many_files: (),
    one_archive_of_one_genre: (),
    ten_thousand_genres: ("max_genres_per_file=10000",),
    two_thousand_artists: (),
    one_user: (),
    one_hour: (),
    tiny_files: ("max_files=20000", "max_quarantined_share=1"),
    one_file_of_a_year: (),
}


@pytest.mark.parametrize("make", LOADS, ids=lambda make: str(make.__name__))
def test_load(make: Callable[[Path], Path], folder: Path, figure: Callable[[str], None]) -> None:
    source, lake, other = make(folder / "input"), folder / "lake", folder / "duckdb"
    command = ["run", "--input", str(source), "--lake", str(lake), "--run-id", "load", "--log-format", "json"]
    command += [part for setting in LOADS[make] for part in ("--set", setting)]
    environment = {**submit_environment(os.environ), CONF_DIR_VARIABLE: str(conf_for_long_names(folder / "conf"))}
    run = measure(submit_command(command), environment, folder / "ours.log")
    measure(
        [sys.executable, "-m", "bench.duckdb_job", str(source), str(other), "8GB", "kpis"],
        {**os.environ, "PYTHONPATH": str(ROOT), "TZ": "UTC"},
        folder / "duckdb.log",
    )
    totals: dict[str, Any] = json.loads((lake / "runs" / "load" / "result.json").read_text("utf-8"))["totals"]
    lines = count_lines(source)
    title = (make.__doc__ or "").partition("\n")[0]
    figure(
        f"load: {title} {sum(totals['files'].values()):,} files, {lines:,} rows: {totals['valid']:,} valid, "
        f"{totals['duplicates']:,} duplicates, {totals['quarantined']:,} quarantined; "
        f"{run.seconds:.0f} s, {run.cpu_seconds:.0f} CPU s, at most {run.memory_mb:,.0f} MB",
    )
    assert totals["rows"] == lines == totals["valid"] + totals["duplicates"] + totals["quarantined"]
    assert differences(lake, other) == []
    assert run.memory_mb < MOST_MEMORY_MB


def conf_for_long_names(folder: Path) -> Path:
    """Return a copy of `conf/` by which artists of a song may be longer than a text usually is."""
    shutil.copytree(ROOT / "conf", folder)
    contract = folder / "contracts" / "songs.toml"
    text = contract.read_text("utf-8")
    contract.write_text(text.replace('type = "names"', 'type = "names"\nmax_bytes = 65536', 1), "utf-8")
    return folder


def count_lines(source: Path) -> int:
    """Rows of all streams files, as this test counts them."""
    total = 0
    for path in (source / "streams").iterdir():
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            total += sum(block.count(b"\n") for block in iter(lambda: stream.read(BLOCK), b"")) - 1
    return total
