"""The main job in a container does what it does without; and whom it does not serve, it tells why."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.image.conftest import Finished, RunJob
from tests.image.lake_content import TABLES, LakeContent
from tools.container import ISOLATION, Job, lake_of_the_container, submit_command
from tools.image import Built


@pytest.fixture(scope="module")
def finished(run_job: RunJob, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return run_job(str(tmp_path_factory.mktemp("with") / "lake"), str(source))


def test_local_files_need_no_network(built: Built, source: Path, tmp_path: Path) -> None:
    command = Job(built.name, [], str(source), str(tmp_path), "any").command({"AWS_SECRET_ACCESS_KEY": "secret"})
    assert command[command.index("--network") + 1] == "none"
    assert "--read-only" in command
    assert not any("AWS_" in word or word == "--user" for word in command)


def test_the_job_ends_well(finished: Finished) -> None:
    assert finished.exit_code == 0, finished.output


@pytest.mark.parametrize("table", TABLES)
def test_tables_are_the_same_as_without_a_container(
    finished: Finished, without_container: LakeContent, table: str
) -> None:
    assert finished.exit_code == 0
    rows = LakeContent(Path(finished.lake)).rows(table)
    assert rows
    assert rows == without_container.rows(table)


def test_exports_are_the_same_as_without_a_container(finished: Finished, without_container: LakeContent) -> None:
    exports = LakeContent(Path(finished.lake)).exports()
    assert exports.keys() >= {"DailyGenreKPIs", "TopSongsPerGenre", "HourlyKPIs"}
    assert exports == without_container.exports()


def test_files_get_the_same_fate_as_without_a_container(finished: Finished, without_container: LakeContent) -> None:
    (ours,), (theirs,) = LakeContent(Path(finished.lake)).results(), without_container.results()
    assert ours["totals_by_dataset"] == theirs["totals_by_dataset"]
    assert [file["path"] for file in ours["files"]] == [file["path"] for file in theirs["files"]]


def test_a_second_run_finds_nothing_new(finished: Finished, run_job: RunJob, source: Path) -> None:
    again = run_job(finished.lake, str(source))
    assert again.exit_code == 0, again.output
    assert LakeContent(Path(finished.lake)).results()[-1]["status"] == "nothing_to_do"


def test_the_lake_belongs_to_its_owner_again(finished: Finished) -> None:
    lake = Path(finished.lake)
    assert {path.owner() for path in (lake, *lake.rglob("*"))} == {lake.parent.owner()}


def test_a_wrong_setting_is_exit_code_2(run_job: RunJob, tiny_source: Path, tmp_path: Path) -> None:
    done = run_job(str(tmp_path / "lake"), str(tiny_source), "--set", "kpi_time_zone=Nowhere")
    assert done.exit_code == 2, done.output
    assert "error: " in done.output
    assert "kpi_time_zone" in done.output
    assert "Traceback" not in done.output


def test_input_without_anything_usable_is_exit_code_3(run_job: RunJob, tmp_path: Path) -> None:
    (tmp_path / "input" / "streams").mkdir(parents=True)
    (tmp_path / "input" / "streams" / "a.csv").write_text("who,what\n1,2\n", "utf-8")
    done = run_job(str(tmp_path / "lake"), str(tmp_path / "input"))
    assert done.exit_code == 3, done.output
    (result,) = LakeContent(tmp_path / "lake").results()
    assert result["status"] == "nothing_usable"


def test_input_that_may_not_be_read_is_told(run_job: RunJob, tiny_source: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_source, tmp_path / "input")
    (tmp_path / "input").chmod(0o700)
    done = run_job(str(tmp_path / "lake"), str(tmp_path / "input"))
    assert done.exit_code == 1
    assert f"error: {tmp_path}/input/streams: can't be read: Permission denied" in done.output
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    ("user", "message"), [("4711:4711", "hadoop"), ("nobody", "can't be written: Permission denied")]
)
def test_another_user_is_told_why_not(built: Built, tiny_source: Path, tmp_path: Path, user: str, message: str) -> None:
    lake = str(tmp_path / "lake")
    job = Job(
        built.name, ["run", "--input", str(tiny_source), "--lake", lake], str(tiny_source), lake, "kpis-test-user"
    )
    command = job.command({})
    command[2:2] = ["--user", user]
    with lake_of_the_container(built.name, lake):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    lines = (done.stdout + done.stderr).splitlines()
    assert [line for line in lines if line.startswith("error: ") and message in line], done
    assert not [line for line in lines if "Traceback" in line or line.startswith("\tat ")]


def test_python_in_the_image_is_the_locked_one(built: Built) -> None:
    ask = "import boto3, json, pydantic, spark_app; print(json.dumps([spark_app.__version__, boto3.__version__]))"
    python = ["--entrypoint", "/opt/music-streaming-kpis/bin/python"]
    command = ["docker", "run", "--rm", "--network", "none", *ISOLATION, *python, built.name, "-c", ask]
    version, boto3_version = json.loads(subprocess.check_output(command, text=True))
    assert f"boto3=={boto3_version} " in Path("locks/app.txt").read_text("utf-8")
    assert f'version = "{version}"' in Path("pyproject.toml").read_text("utf-8")


def test_the_bare_command_of_the_page_is_what_runs() -> None:
    page = Path("docs/image.md").read_text("utf-8")
    assert all(word in page for word in submit_command([])[:1] + submit_command([])[-1:])


def test_the_bill_of_materials_names_system_python_and_jars(built: Built) -> None:
    components = json.loads(Path(built.sbom).read_text("utf-8"))["components"]
    kinds = {component.get("purl", "").partition("/")[0] for component in components}
    assert kinds >= {"pkg:pypi", "pkg:maven"}
    names = {component["name"] for component in components}
    assert names >= {"music-streaming-kpis", "boto3", "delta-storage", "hadoop-client-api", "tini"}
