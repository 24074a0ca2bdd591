"""`./build.sh app …`: one command of the application under `spark-submit`, with these arguments as they are."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from tools.jars import JarError
from tools.main_job import jar_purposes, prepare
from tools.processes import StoppedBySignal, run_to_end, signals_raise
from tools.spark_submit import submit_command, submit_environment
from tools.toolchain import ToolchainError

SHORT = {"files", "export", "restore"}


def main(arguments: Sequence[str]) -> int:
    """Return the application's exit code."""
    from spark_app.errors import UsageError

    try:
        with signals_raise():
            prepare(arguments)
            purposes = jar_purposes(arguments)
            environment = submit_environment(os.environ, purposes, short_run=bool(SHORT & set(arguments[:1])))
            return run_to_end(submit_command(arguments, purposes), environment)
    except StoppedBySignal as stop:
        return stop.exit_code
    except (JarError, ToolchainError, UsageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
