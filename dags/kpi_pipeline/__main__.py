"""Entry point of `python -m kpi_pipeline`."""

from kpi_pipeline.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
