#!/bin/bash
# Stands in for /usr/bin/entrypoint.sh of the EMR Serverless image: `driver …` becomes spark-submit in client mode,
# `executor …` an executor of the driver that `--driver-url` names; any other command is executed as it is, all under tini.
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
        shift
        SPARK_EXECUTOR_OPTS=${SPARK_EXECUTOR_OPTS:-}
        # What Spark gives to Java 17 where it starts executors itself (org.apache.spark.launcher.JavaModuleOptions).
        for package in lang lang.invoke lang.reflect io net nio util util.concurrent util.concurrent.atomic; do
            SPARK_EXECUTOR_OPTS+=" --add-opens=java.base/java.$package=ALL-UNNAMED"
        done
        for package in jdk.internal.ref sun.nio.ch sun.nio.cs sun.security.action sun.util.calendar; do
            SPARK_EXECUTOR_OPTS+=" --add-opens=java.base/$package=ALL-UNNAMED"
        done
        export SPARK_EXECUTOR_OPTS
        cd "$(mktemp --directory)" # the driver's jars are put into the working folder
        set -- "$SPARK_HOME/bin/spark-class" org.apache.spark.executor.CoarseGrainedExecutorBackend "$@"
        ;;
esac

exec /usr/bin/tini -s -- "$@"
