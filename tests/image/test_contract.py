"""The contract of an EMR Serverless image holds, and the check notices when it does not."""

import subprocess
from collections.abc import Iterator

import pytest

from tools.docker_engine import docker, labels_of
from tools.image import Built
from tools.image_context import build_wheel
from tools.image_contract import Contract, check_image
from tools.toolchain import pip_settings

BROKEN = "kpis-test-broken:latest"


def test_the_image_keeps_the_contract(built: Built) -> None:
    broken = [result for result in check_image(built.name, built.base, Contract.load()) if not result.passed]
    assert broken == []


@pytest.fixture
def broken_image(built: Built) -> Iterator[str]:
    steps = (
        f"FROM {built.name}",
        "USER root",
        "WORKDIR /srv",
        "ENV PYSPARK_PYTHON=/opt/music-streaming-kpis/bin/python INDEX_URL=x",
        "RUN printf '#!/bin/sh' >/usr/bin/gcc && chmod 4755 /usr/bin/gcc && mkdir -p ~/.cache/pip",
        "RUN chmod 666 /opt/music-streaming-kpis/main.py && echo >>/usr/bin/entrypoint.sh",
        'ENTRYPOINT ["/bin/bash"]',
        "USER hadoop",
        "LABEL music-streaming-kpis.emr-architecture=Z80",
    )
    docker("build", "--tag", BROKEN, "-", stdin="\n".join(steps))
    yield BROKEN
    docker("image", "rm", "--force", BROKEN)


def test_a_broken_image_is_told_point_by_point(built: Built, broken_image: str) -> None:
    broken = {result.check for result in check_image(broken_image, built.base, Contract.load()) if not result.passed}
    assert broken == {
        "user",
        "working directory",
        "entry point",
        "entry point as in the base",
        "architecture label",
        "no secret in the environment or the history",
        "as in the base: /usr/bin/entrypoint.sh",
        "nothing of ours is writable for the user",
        "nothing added that everybody may write",
        "no file with a set-user-ID or set-group-ID bit added",
        "nothing left in /root",
        "no compiler or installer added",
    }


def test_the_wheel_is_the_one_that_this_repository_makes(built: Built) -> None:
    assert labels_of(built.name)["music-streaming-kpis.wheel-sha256"] == build_wheel().sha256


def test_nothing_names_the_machine_it_was_built_on(built: Built) -> None:
    history = docker("history", "--no-trunc", built.name).stdout + docker("image", "inspect", built.name).stdout
    index = [value for name, value in pip_settings().items() if name.endswith("index-url")]
    assert [value for value in index if value in history] == []
    inside = docker("create", built.base).stdout.strip()
    try:
        with subprocess.Popen(["docker", "export", inside], stdout=subprocess.PIPE) as export:
            names = subprocess.run(["tar", "--list"], stdin=export.stdout, capture_output=True, text=True, check=True)
    finally:
        docker("rm", inside)
    assert [
        name for name in names.stdout.split() if name.startswith("etc/apt/sources.list.d/") and name[-1] != "/"
    ] == []
