#!/usr/bin/env bash
# The one command of this repository: ./build.sh help
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PYTHON=$ROOT/.build/venv/bin/python

fail() {
    echo "error: $1" >&2
    exit "${2:-1}"
}

# Print the first Python 3.11 found: python3.11, else python3 if it is one.
python_3_11() {
    local candidate
    for candidate in python3.11 python3; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    fail "Python 3.11 is needed, as 'python3.11' or 'python3' (Debian 12: apt-get install python3 python3-venv)"
}

# Get the tools that are not there yet, and the jars for the purposes named (docker/jars.txt).
set_up() {
    local python settings
    python=$(python_3_11)
    settings=$(PYTHONPATH=$ROOT "$python" -m tests.local.toolchain "$@") || exit 1
    eval "$settings"
    export TZ=UTC PYTHONPATH=$ROOT:$ROOT/dags PYSPARK_PYTHON=$PYTHON PYSPARK_DRIVER_PYTHON=$PYTHON
}

# --- commands: help_NAME is the line in ./build.sh help, cmd_NAME what it does ---

help_run="run the application on sample data or your own, deliver to DynamoDB Local, show the KPIs"
cmd_run() {
    set_up delta
    exec "$PYTHON" -m tests.local.main_job "$@"
}

help_test="run the tests and report coverage"
more_test="usage: ./build.sh test [ARGUMENTS OF PYTEST]

Without arguments: all tests, two at a time, with coverage. With arguments: just those, for instance
  ./build.sh test tests/unit -k songs -x"
cmd_test() {
    set_up delta s3
    cd "$ROOT"
    (($# > 0)) || set -- -n 2 --dist loadfile --cov --cov-report=term --cov-report=html
    exec "$PYTHON" -m pytest "$@"
}

help_lint="check style, types and shell scripts"
more_lint="usage: ./build.sh lint [--fix]

  --fix   first repair what can be repaired by itself"
cmd_lint() {
    set_up
    cd "$ROOT"
    local bin=$ROOT/.build/venv/bin failed=0
    if [[ ${1:-} == --fix ]]; then
        "$bin/ruff" check --quiet --fix . || true
        "$bin/ruff" format --quiet .
    fi
    "$bin/ruff" check . || failed=1
    "$bin/ruff" format --check . || failed=1
    "$PYTHON" -m mypy || failed=1
    "$bin/shellcheck" build.sh .ci/run || failed=1
    ((failed == 0)) || fail "lint found something"
    echo "lint: all clean"
}

help_lock="write locks/ again from pyproject.toml; --upgrade takes the newest versions"
cmd_lock() {
    set_up
    cd "$ROOT"
    exec "$PYTHON" -m tests.local.lock "$@"
}

help_clean="remove all that was made and got (.build/)"
more_clean="usage: ./build.sh clean"
cmd_clean() {
    rm -rf "$ROOT/.build"
}

help_help="list the commands"
more_help="usage: ./build.sh help"
cmd_help() {
    local name line
    echo "usage: ./build.sh COMMAND [ARGUMENTS]"
    echo
    for name in run test lint lock clean help; do
        line=help_$name
        printf '  %-8s %s\n' "$name" "${!line}"
    done
    echo
    echo "./build.sh COMMAND --help tells more of one."
}

main() {
    local command=${1:-help}
    if [[ $command == -h || $command == --help ]]; then command=help; fi
    declare -F "cmd_$command" >/dev/null || fail "there is no command '$command'; see ./build.sh help" 2
    shift $(($# > 0))
    local more=more_$command
    if [[ ${1:-} == --help && -n ${!more:-} ]]; then
        echo "${!more}"
        return
    fi
    "cmd_$command" "$@"
}

main "$@"
