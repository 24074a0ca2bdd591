"""Write the report of a lake: one HTML file that needs no network."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

from kpi_common.errors import AppError

REPORT = Path(__file__).resolve().parents[1] / ".build" / "report.html"
LAKE = REPORT.with_name("lake")


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0, or 2 where the lake can't be read."""
    parser = argparse.ArgumentParser(prog="./build.sh report", description=__doc__)
    parser.add_argument("--lake", metavar="DIR|s3://…", default=str(LAKE), help="default: .build/lake")
    parser.add_argument("--output", metavar="FILE", type=Path, default=REPORT, help="default: .build/report.html")
    options = parser.parse_args(arguments)
    if options.lake == str(LAKE) and not LAKE.exists():
        parser.error(f"{LAKE} is not there yet: ./build.sh run makes it")
    try:
        print(f"report  {write_report(options.lake, options.output)}")
    except AppError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def write_report(lake: str, output: Path) -> str:
    """Write the report of a lake and return its address for a browser.

    Raises:
        UsageError: there is no such lake.
    """
    from report.figures import read_figures
    from report.page import write_page

    with ThreadPoolExecutor(1) as pool:
        libraries = pool.submit(chart_libraries, REPORT.parent)
        write_page(read_figures(lake), output, libraries.result())
    return output.resolve().as_uri()


def chart_libraries(cache: Path) -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script; to bundle them takes seconds, so it is kept."""
    kept = cache / f".vega-{version('vl-convert-python')}.js"
    if not kept.exists():
        import vl_convert

        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=cache, delete=False, encoding="utf-8") as partial:
            bundle: str = vl_convert.javascript_bundle(snippet=None)  # type: ignore[arg-type]
            partial.write(bundle)
        Path(partial.name).replace(kept)
    return kept.read_text(encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
