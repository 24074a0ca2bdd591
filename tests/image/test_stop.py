"""SIGTERM, as from `docker stop` or a cancelled job: a clean end, and the next run finishes the work."""

import json
import subprocess
import time
from pathlib import Path

from tests.image.conftest import RunJob
from tests.image.lake_content import TABLES, LakeContent
from tools.container import Job, lake_of_the_container
from tools.docker_engine import docker
from tools.image import Built

NAME = "kpis-test-stopped"
SECONDS_TO_GET_THERE = 240


def stop_during(step: str, job: Job) -> int:
    """Stop a job as soon as its log says that a step has begun, and return its exit code."""
    with subprocess.Popen(job.command({}), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        deadline = time.monotonic() + SECONDS_TO_GET_THERE
        for line in process.stdout:
            assert time.monotonic() < deadline
            if f"step={step}" in line and "done" not in line:
                break
        time.sleep(0.5)
        docker("stop", "--time", "30", job.name)
        process.stdout.read()
        return process.wait()


def test_a_stopped_job_is_finished_by_the_next(
    built: Built, run_job: RunJob, source: Path, tmp_path: Path, without_container: LakeContent
) -> None:
    lake = str(tmp_path / "lake")
    arguments = ["run", "--input", str(source), "--lake", lake, "--log-format", "text"]
    job = Job(built.name, arguments, str(source), lake, NAME, short_run=True)
    with lake_of_the_container(built.name, lake):
        exit_code = stop_during("publish KPIs", job)
    content = LakeContent(Path(lake))
    (result,) = content.results()
    assert exit_code not in {0, 137}
    assert (result["status"], result["error"]["code"]) == ("failed", "stopped")
    assert not list(Path(lake).glob("exports/*/manifest.json"))
    assert not (Path(lake) / "ops" / "lake.lock").exists()

    # The lock was given back: a run that may not wait for it gets it.
    finished = run_job(lake, str(source), "--set", "lock_wait_seconds=0")
    assert finished.exit_code == 0, finished.output
    assert {table: content.rows(table) for table in TABLES} == {t: without_container.rows(t) for t in TABLES}
    assert content.exports() == without_container.exports()


def test_ctrl_c_at_build_sh_stops_the_container(built: Built, source: Path, tmp_path: Path) -> None:
    command = [
        "./build.sh",
        "run",
        "--docker",
        "--no-delivery",
        "--input",
        str(source),
        "--lake",
        str(tmp_path / "lake"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "step=validate" in line:
            break
    process.terminate()
    process.stdout.read()
    assert process.wait() == 128 + 15
    running = docker("ps", "--filter", f"ancestor={built.name}", "--format", "{{json .Names}}").stdout.split()
    assert [name for name in map(json.loads, running) if f"-{process.pid}" in name] == []
    (result,) = LakeContent(tmp_path / "lake").results()
    assert result["error"]["code"] == "stopped"
    assert (tmp_path / "lake" / "lake.json").owner() == tmp_path.owner()
