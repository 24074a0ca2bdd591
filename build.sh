#!/usr/bin/env bash
# The one command of this repository: ./build.sh help
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
BIN=$ROOT/.build/venv/bin
PYTHON=$BIN/python

fail() {
    echo "error: $1" >&2
    exit "${2:-1}"
}

asks_for_help() {
    [[ ${1:-} == -h || ${1:-} == --help ]]
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

# Show the help of a module of tools, which needs no tools for that.
show_help() {
    local python
    python=$(python_3_11)
    PYTHONPATH=$ROOT exec "$python" -m "tools.$1" --help
}

# Get the tools that are not there yet, and the jars for the purposes named (see docker/jars.txt).
set_up() {
    local python settings
    python=$(python_3_11)
    settings=$(PYTHONPATH=$ROOT "$python" -m tools.toolchain "$@")
    eval "$settings"
    export TZ=UTC LC_ALL=C.UTF-8 PYTHONUTF8=1 PYTHONPATH=$ROOT:$ROOT/dags PYSPARK_PYTHON=$PYTHON PYSPARK_DRIVER_PYTHON=$PYTHON
}

# --- commands: NAME is cmd_NAME; the line with ## is shown by ./build.sh help ---

## run    run the application on sample data or your own, deliver to DynamoDB Local, show the KPIs
cmd_run() {
    if asks_for_help "$@"; then show_help main_job; fi
    set_up delta
    exec "$PYTHON" -m tools.main_job "$@"
}

## app    any command of the application: ./build.sh app files list --lake .build/lake
cmd_app() {
    set_up delta
    exec "$PYTHON" -m tools.app "$@"
}

## pipeline  the Airflow side by hand: ./build.sh pipeline deliver --lake s3://…; also read, files, redshift
cmd_pipeline() {
    set_up
    exec "$PYTHON" -m kpi_pipeline "$@"
}

## sql    a query over the lake's tables, without Spark: ./build.sh sql "select * from kpis.hourly"
cmd_sql() {
    if asks_for_help "$@"; then show_help sql; fi
    set_up
    exec "$PYTHON" -m tools.sql "$@"
}

## report  write what is in a lake, and how its runs went, as one HTML page with charts
cmd_report() {
    set_up
    exec "$PYTHON" -m report "$@"
}

## serve  the KPI API on this machine, with what a lake has exported
cmd_serve() {
    if asks_for_help "$@"; then show_help serve; fi
    set_up delta
    cd "$ROOT"
    exec "$PYTHON" -m tools.serve "$@"
}

## test   run the tests (--all: the long ones too; --coverage: what they cover); other arguments go to pytest
cmd_test() {
    if asks_for_help "$@"; then
        echo "usage: ./build.sh test [--coverage | --all | ARGUMENTS OF PYTEST]"
        echo
        echo "Without arguments: all tests but the long ones; --coverage: the same, and what they cover, which takes a tenth"
        echo "more; --all: the long ones in place of their samples."
        echo "With arguments of pytest: just what they say, for instance"
        echo "  ./build.sh test tests/unit -k songs -x"
        return
    fi
    set_up delta s3 jdbc
    cd "$ROOT"
    local parallel=(-n 2 --dist loadfile)
    if (($# == 0)); then
        set -- "${parallel[@]}" -m "not long and not image"
    elif [[ $1 == --coverage ]]; then
        shift
        set -- "${parallel[@]}" --cov --cov-report=term --cov-report=html -m "not long and not image" "$@"
    elif [[ $1 == --all ]]; then
        shift
        "$PYTHON" -m tools.class_archive delta
        "$PYTHON" -m tools.class_archive delta s3
        set -- "${parallel[@]}" -m "not sample and not image" "$@"
    fi
    exec "$PYTHON" -m pytest "$@"
}

## bench  measure our job beside plain PySpark and DuckDB, on data made for it
cmd_bench() {
    set_up delta
    cd "$ROOT"
    exec "$PYTHON" -m bench.main "$@"
}

## lint   check style, types, layers and shell scripts; --fix first repairs what can be repaired
cmd_lint() {
    if asks_for_help "$@"; then
        echo "usage: ./build.sh lint [--fix]"
        return
    fi
    set_up
    cd "$ROOT"
    if [[ ${1:-} == --fix ]]; then
        "$BIN/ruff" check --quiet --fix-only .
        "$BIN/ruff" format --quiet .
    fi
    local failed=0
    "$BIN/ruff" check . || failed=1
    "$BIN/ruff" format --check . || failed=1
    "$PYTHON" -m mypy || failed=1
    "$BIN/lint-imports" --cache-dir .build/import-linter --no-logo || failed=1
    "$BIN/shellcheck" build.sh .ci/run docker/*.sh docker/*/*.sh || failed=1
    "$BIN/hadolint" --config docker/hadolint.yaml docker/Dockerfile docker/*/Dockerfile || failed=1
    ((failed == 0)) || fail "lint found something"
    echo "lint: all clean"
}

## image  build the container image, --local on a look-alike of the EMR base; --check and --test examine it
cmd_image() {
    if asks_for_help "$@"; then show_help image; fi
    set_up delta s3
    exec "$PYTHON" -m tools.image "$@"
}

## push   push the image to ECR and print its digest; --dry-run shows each command
cmd_push() {
    if asks_for_help "$@"; then show_help image_push; fi
    set_up delta
    exec "$PYTHON" -m tools.image_push "$@"
}

## dag    run the DAG with a real Airflow on an emulated AWS; --ui leaves the web UI up, --test runs its tests
cmd_dag() {
    if asks_for_help "$@"; then show_help dag_job; fi
    set_up delta s3
    cd "$ROOT"
    exec "$PYTHON" -m tools.dag_job "$@"
}

## package  put what MWAA or another Airflow needs into .build/package/
cmd_package() {
    if asks_for_help "$@"; then show_help package; fi
    set_up
    exec "$PYTHON" -m tools.package "$@"
}

## deploy make what conf/aws/template.yaml describes on AWS; --dry-run shows each call
cmd_deploy() {
    if asks_for_help "$@"; then show_help deploy; fi
    set_up
    exec "$PYTHON" -m tools.deploy "$@"
}

## lock   write locks/ again from pyproject.toml; --upgrade takes the newest versions
cmd_lock() {
    if asks_for_help "$@"; then show_help lock; fi
    set_up
    exec "$PYTHON" -m tools.lock "$@"
}

## clean  remove all that was made and got (.build/)
cmd_clean() {
    if asks_for_help "$@"; then
        echo "usage: ./build.sh clean"
        return
    fi
    rm -rf "$ROOT/.build"
}

## help   list the commands
cmd_help() {
    echo "usage: ./build.sh COMMAND [ARGUMENTS]"
    echo
    sed -n 's/^## /  /p' "$ROOT/build.sh"
    echo
    echo "./build.sh COMMAND --help tells more of one."
}

main() {
    local command=${1:-help}
    if asks_for_help "$command"; then command=help; fi
    declare -F "cmd_$command" >/dev/null || fail "there is no command '$command'; see ./build.sh help" 2
    shift $(($# > 0))
    "cmd_$command" "$@"
}

main "$@"
