"""Jobs in containers of the image that was built last, and one outside for comparison."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.image.lake_content import LakeContent
from tools.container import Job, lake_of_the_container
from tools.docker_engine import docker, ensure_engine
from tools.image import Built, latest
from tools.main_job import sample_data
from tools.spark_submit import submit_command, submit_environment
from tools.toolchain import ROOT

SHARED_DATA = ROOT.parent / "shared" / "data" / "raw"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of this folder need Docker and an image: `./build.sh image --test` runs them, nothing else does."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.image)


@dataclass(frozen=True)
class Finished:
    """What a job left: exit code, both its outputs in one text, and its lake."""

    exit_code: int
    output: str
    lake: str


RunJob = Callable[..., Finished]


@pytest.fixture(scope="session")
def built() -> Built:
    """The image under test."""
    ensure_engine()
    return latest()


@pytest.fixture(scope="session")
def run_job(built: Built) -> Iterator[RunJob]:
    """Run the application in a container to its end."""
    names: list[str] = []

    def run(lake: str, source: str, *more: str, env: dict[str, str] | None = None) -> Finished:
        names.append(f"kpis-test-{secrets.token_hex(4)}")
        arguments = ["run", "--input", source, "--lake", lake, "--log-format", "text", *more]
        environ = os.environ | (env or {})
        job = Job(built.name, arguments, source, lake, names[-1], short_run=True)
        with lake_of_the_container(built.name, lake):
            done = subprocess.run(job.command(environ), env=environ, capture_output=True, text=True, check=False)
        return Finished(done.returncode, done.stdout + done.stderr, lake)

    yield run
    for name in names:
        docker("rm", "--force", name, check=False)


@pytest.fixture(scope="session")
def source() -> Path:
    """The shared data where they are, else the sample."""
    return SHARED_DATA if SHARED_DATA.is_dir() else sample_data()


@pytest.fixture(scope="session")
def without_container(source: Path, tmp_path_factory: pytest.TempPathFactory) -> LakeContent:
    """What the application makes of the data outside a container."""
    lake = tmp_path_factory.mktemp("without") / "lake"
    arguments = ["run", "--input", str(source), "--lake", str(lake), "--log-format", "text"]
    environment = submit_environment(os.environ, short_run=True)
    done = subprocess.run(submit_command(arguments), env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return LakeContent(lake)


@pytest.fixture(scope="session")
def tiny_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three listens of two songs."""
    folder = tmp_path_factory.mktemp("tiny")
    files = {
        "songs/songs.csv": "id,track_id,artists,album_name,track_name,popularity,duration_ms,explicit,track_genre\n"
        "1,t1,A;B,First,One,50,200000,False,pop\n2,t2,B,Second,Two,40,180000,False,rock\n",
        "songs/lines.csv": "id,track_id,artists,album_name,track_name,popularity,duration_ms,explicit,track_genre\n"
        '3,t3,C,"Over two\nlines",Three,30,170000,False,pop\n',
        "users/users.csv": "user_id,user_name,user_age,user_country,created_at\n1,Ann,30,DE,2024-01-01\n",
        "streams/a.csv": "user_id,track_id,listen_time\n1,t1,2024-06-25 10:00:00\n1,t2,2024-06-25 10:05:00\n"
        "1,t1,2024-06-25 11:00:00\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    folder.chmod(0o755)  # the container's user has to see it
    return folder
