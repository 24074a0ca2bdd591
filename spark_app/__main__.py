"""Entry point of `python -m spark_app` and of `spark-submit …/spark_app/__main__.py`."""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    # spark-submit puts this file's own folder first on the path: import the package by its name instead.
    here = str(Path(__file__).resolve().parent)
    sys.path[:] = [entry for entry in sys.path if entry != here]
    # It also names pyspark as a zip, which Python compiles in each run; where pip installed it, there are files of it.
    if (Path(os.environ.get("SPARK_HOME", "")) / "__init__.py").is_file():
        sys.path[:] = [entry for entry in sys.path if not entry.endswith("/pyspark.zip")]
    try:
        import spark_app  # noqa: F401
    except ImportError:
        sys.path.insert(0, str(Path(here).parent))
    from spark_app.cli import main

    sys.exit(main())
