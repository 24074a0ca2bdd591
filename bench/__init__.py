"""Benchmarks: `./build.sh bench`. Ratios, measured side by side in one run; never an assertion about time."""
