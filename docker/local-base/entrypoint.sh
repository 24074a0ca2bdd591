#!/bin/bash
# Stands in for /usr/bin/entrypoint.sh of the EMR Serverless image: `driver …` becomes spark-submit in client mode,
# any other command is executed as it is, both under tini.
set -euo pipefail

if ! whoami >/dev/null 2>&1; then
    echo "error: user $(id -u) is not known in this image; it runs as hadoop: leave out --user" >&2
    exit 1
fi

case ${1:-} in
    '')
        echo "error: no command; for instance: spark-submit local:///opt/music-streaming-kpis/main.py --help" >&2
        exit 2
        ;;
    driver)
        shift
        set -- "$SPARK_HOME/bin/spark-submit" --deploy-mode client "$@"
        ;;
    executor)
        echo "error: the look-alike of the EMR base runs Spark in one process (local mode), without executors" >&2
        exit 2
        ;;
esac

exec /usr/bin/tini -s -- "$@"
