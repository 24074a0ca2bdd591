#!/usr/bin/env bash
# Make sure that a Docker engine answers. Where none does: on Debian or Ubuntu, as root, install and start one.
set -euo pipefail
LOG=/var/log/dockerd-started-by-ci.log

answers() {
    docker version >/dev/null 2>&1
}

fail() {
    echo "error: $1" >&2
    exit 1
}

install() {
    echo "installing $* …" >&2
    export DEBIAN_FRONTEND=noninteractive
    apt-get update --quiet=2 && apt-get install --quiet=2 --yes --no-install-recommends "$@" >&2
}

# Start the engine apart from this shell; $1 is a storage driver, empty for the engine's own choice.
start() {
    echo "starting dockerd ${1:+with storage driver $1 }…" >&2
    setsid nohup dockerd ${1:+--storage-driver "$1"} >"$LOG" 2>&1 </dev/null &
    local pid=$!
    for _ in {1..60}; do
        if answers; then return; fi
        kill -0 "$pid" 2>/dev/null || return 1
        sleep 1
    done
    kill "$pid"
    return 1
}

# The look-alike of the EMR base is bootstrapped with mmdebstrap where no registry is reached.
needed=()
if ! answers && ! command -v dockerd >/dev/null; then
    needed+=(docker.io)
fi
if command -v apt-get >/dev/null && ! command -v mmdebstrap >/dev/null && ((EUID == 0)); then
    needed+=(mmdebstrap)
fi
if ((${#needed[@]} > 0)); then
    if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
        fail "no Docker engine answers; install Docker, or run this as root on Debian"
    fi
    install "${needed[@]}"
fi

if ! answers; then
    ((EUID == 0)) || fail "no Docker engine answers, and only root can start one"
    start '' || start vfs || { tail -n 20 "$LOG" >&2 && fail "dockerd does not start; its log is $LOG"; }
fi
docker version --format 'Docker engine {{.Server.Version}} on {{.Server.Os}}/{{.Server.Arch}}'
