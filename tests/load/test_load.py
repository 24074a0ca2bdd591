"""Much at once, on one machine and within 4 GB: many listens, many files, all in one genre, one large archive.

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
from tools.spark_submit import submit_command, submit_environment
from tools.toolchain import BUILD, ROOT

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(3600)]
SHARE = float(os.environ.get("KPI_LOAD_SHARE", "1"))
MOST_MEMORY_MB = 4096
FILES = 2_000
BLOCK = 1024 * 1024


def many_listens(folder: Path) -> Path:
    """50 million listens of 75 days."""
    return make_data(folder, int(50_000_000 * SHARE), 75)


def many_files(folder: Path) -> Path:
    """200,000 listens of one day in 2,000 files."""
    source = make_data(folder, 200_000, 1)
    (path,) = (source / "streams").glob("*.csv")
    header, *listens = path.read_bytes().splitlines(keepends=True)
    each = len(listens) // FILES
    for start in range(0, len(listens), each):
        (path.parent / f"{path.stem}-{start}.csv").write_bytes(header + b"".join(listens[start : start + each]))
    path.unlink()
    return source


def one_archive_of_one_genre(folder: Path) -> Path:
    """10 million listens of one day, all in one genre, in one gzip file of 1 GB unpacked, with a column more.

    Spark cannot split such a file.
    """
    source = make_data(folder, int(10_000_000 * SHARE), 1)
    songs = source / "songs" / "songs.csv"
    everything = duckdb.read_csv(str(songs), header=True, all_varchar=True)
    _rewrite(everything.select("* REPLACE ('the only one' AS track_genre)"), songs)
    (path,) = (source / "streams").glob("*.csv")
    listens = duckdb.read_csv(str(path), header=True, all_varchar=True)
    _rewrite(listens.select("*, repeat('Mozilla/5.0 ', 5) AS user_agent"), path)
    with path.open("rb") as text, gzip.open(f"{path}.gz", "wb", compresslevel=1) as packed:
        shutil.copyfileobj(text, packed, BLOCK)
    assert path.stat().st_size > 1e9 * SHARE
    path.unlink()
    return source


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


@pytest.mark.parametrize(
    "make", [many_listens, many_files, one_archive_of_one_genre], ids=lambda make: str(make.__name__)
)
def test_load(make: Callable[[Path], Path], folder: Path, figure: Callable[[str], None]) -> None:
    source, lake, other = make(folder / "input"), folder / "lake", folder / "duckdb"
    command = ["run", "--input", str(source), "--lake", str(lake), "--run-id", "load", "--log-format", "json"]
    run = measure(submit_command(command), submit_environment(os.environ), folder / "ours.log")
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


def count_lines(source: Path) -> int:
    """Rows of all streams files, as this test counts them."""
    total = 0
    for path in (source / "streams").iterdir():
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            total += sum(block.count(b"\n") for block in iter(lambda: stream.read(BLOCK), b"")) - 1
    return total
