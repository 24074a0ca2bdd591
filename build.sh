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

help_test="run the tests and report coverage; arguments go to pytest"
cmd_test() {
    set_up delta s3
    cd "$ROOT"
    exec "$PYTHON" -m tests.local.run_tests "$@"
}

help_lint="check style, types and shell scripts; --fix repairs what can be repaired"
cmd_lint() {
    set_up
    cd "$ROOT"
    exec "$PYTHON" -m tests.local.lint "$@"
}

help_lock="write locks/ again from pyproject.toml; --upgrade takes the newest versions"
cmd_lock() {
    set_up
    cd "$ROOT"
    exec "$PYTHON" -m tests.local.lock "$@"
}

help_clean="remove all that was made and got (.build/)"
cmd_clean() {
    rm -rf "$ROOT/.build"
}

help_help="list the commands"
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
    [[ $command == -h || $command == --help ]] && command=help
    declare -F "cmd_$command" >/dev/null || fail "there is no command '$command'; see ./build.sh help" 2
    shift $(($# > 0))
    "cmd_$command" "$@"
}

main "$@"
