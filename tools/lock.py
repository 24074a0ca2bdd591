"""Write `locks/*.txt` from `pyproject.toml`: exact versions with hashes, no index address."""

import argparse
import os
import sys
from pathlib import Path

from tools.toolchain import LOCKS, ROOT, UV, ToolchainError, get_uv, network_environment, run, say

# Name of the lock -> what of pyproject.toml goes in.
CONTENTS = {
    "airflow": ["--group", "airflow"],
    "airflow-3.0": ["--group", "airflow-3-0"],
    "airflow-3.2.1": ["--group", "airflow-3-2-1"],
    "airflow-3.3.1": ["--group", "airflow-3-3-1"],
    "api": ["--group", "api"],
    "app": ["pyproject.toml"],
    "bench": ["--group", "bench"],
    "browser": ["--group", "browser"],
    "build": ["--group", "build"],
    "cfn": ["--group", "cfn"],
    "dev": ["pyproject.toml", "--extra", "spark", "--group", "dev"],
    "java": ["--group", "java"],
    "tools": ["--group", "tools"],
}
# Made once with the constraints of MWAA's images; what they hold is not ours to upgrade.
AS_IN_THE_IMAGE = ("airflow-3.0", "airflow-3.2.1", "airflow-3.3.1")
OPTIONS = ["--quiet", "--universal", "--python-version", "3.11", "--generate-hashes", "--no-emit-index-url"]


def main() -> int:
    """Compile each lock; versions that still fit are kept unless `--upgrade` is given."""
    parser = argparse.ArgumentParser(prog="./build.sh lock", description=__doc__)
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that pyproject.toml allows")
    upgrade = ["--upgrade"] if parser.parse_args().upgrade else []
    os.chdir(ROOT)
    env = network_environment(os.environ) | {"UV_CUSTOM_COMPILE_COMMAND": "./build.sh lock"}
    try:
        get_uv(env)
        for name, content in CONTENTS.items():
            say(f"locks/{name}.txt")
            newer = [] if name in AS_IN_THE_IMAGE else upgrade
            command: list[str | Path] = [UV, "pip", "compile", *OPTIONS, *newer, *content]
            run([*command, "--output-file", LOCKS / f"{name}.txt"], env, f"uv could not lock '{name}'")
    except ToolchainError as error:
        say(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
