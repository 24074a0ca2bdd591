"""Every DAG file keeps to this policy, on every Airflow that we support."""

import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

DAGS = Path(__file__).resolve().parents[2] / "dags"
PIPELINE = DAGS / "music_streaming_pipeline.py"
MAINTENANCE = DAGS / "music_streaming_maintenance.py"
DAG_FILES = sorted(path for path in DAGS.glob("*.py") if "DAG(" in path.read_text("utf-8"))

# Imports DAG files as Airflow's processor does, each in a fork of a process that has Airflow loaded: with sockets
# closed and without pyspark. It tells what it found.
PROCESSOR = """
import importlib.util, json, os, socket, sys, traceback
import airflow, airflow.sdk
import airflow.providers.amazon.aws.operators.emr, airflow.providers.amazon.aws.sensors.s3  # as it does by itself

class NoNetwork(socket.socket):
    def connect(self, *_):
        raise AssertionError("a DAG file opened a connection while it was parsed")
    connect_ex = connect

class NoSpark:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("pyspark", "delta", "spark_app"):
            raise ImportError(f"{name} must not be needed to parse a DAG")

def is_xcom(value):
    return type(value).__name__ == "PlainXComArg"

def parse(folder, path, settings):
    os.environ.update(settings)
    socket.socket = NoNetwork
    sys.meta_path.insert(0, NoSpark())
    opened = []
    def note(event, args):
        if event == "open" and args[1] not in (None, "r", "rb"):
            opened.append(str(args[0]))

    sys.addaudithook(note)
    sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location("dag_under_test", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    dags = [value for value in vars(module).values() if isinstance(value, airflow.sdk.DAG)]
    told = [{
        "dag_id": dag.dag_id,
        "tags": sorted(dag.tags),
        "doc_md": dag.doc_md or "",
        "max_active_runs": dag.max_active_runs,
        "catchup": dag.catchup,
        "schedule": str(dag.timetable.__class__.__name__),
        "params": {name: dag.params.get_param(name).schema for name in dag.params},
        "tasks": {task.task_id: {
            "owner": task.owner,
            "retries": task.retries,
            "retry_seconds": task.retry_delay.total_seconds(),
            "trigger_rule": str(getattr(task.trigger_rule, "value", task.trigger_rule)),
            "downstream": sorted(task.downstream_task_ids),
            "upstream": sorted(task.upstream_task_ids),
            "doc": (getattr(task, "doc_md", None) or getattr(task, "partial_kwargs", {}).get("doc_md") or "").strip(),
            "deferrable": getattr(task, "partial_kwargs", vars(task)).get("deferrable"),
            "callback": bool(getattr(task, "partial_kwargs", vars(task)).get("on_failure_callback")),
            "teardown": task.is_teardown,
            "templated": sorted(n for n in task.template_fields if is_xcom(getattr(task, n, 0))),
            "outlets": sorted(asset.name for asset in getattr(task, "outlets", None) or []),
        } for task in dag.tasks},
    } for dag in dags]
    return {"dags": told, "written": opened, "pyspark": "pyspark" in sys.modules}

for line in sys.stdin:
    if os.fork() == 0:
        try:
            answer = parse(*json.loads(line))
        except Exception:
            answer = {"error": traceback.format_exc()}
        os.write(int(sys.argv[1]), (json.dumps(answer) + "\\n").encode())
        os._exit(0)
    os.wait()
"""


@functools.cache
def processor() -> tuple[subprocess.Popen[str], IO[str]]:
    """The process, and what it answers by; its environment has no Airflow database."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "AWS_", "MUSIC_KPIS_", "PYTHON"))}
    home = {"AIRFLOW_HOME": os.environ["AIRFLOW_HOME"], "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", PROCESSOR, str(writing)],
        env={**clean, **home},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        pass_fds=[writing],
    )
    os.close(writing)
    return process, os.fdopen(reading)


@functools.cache
def parse(path: Path, folder: Path = DAGS, **settings: str) -> dict[str, Any]:
    """What Airflow's processor finds in a DAG file."""
    process, answers = processor()
    assert process.stdin is not None
    environment = {f"MUSIC_KPIS_DAG_{name}": value for name, value in settings.items()}
    process.stdin.write(json.dumps([str(folder), str(path), environment]) + "\n")
    process.stdin.flush()
    result: dict[str, Any] = json.loads(answers.readline())
    if "error" in result:
        raise ImportError(result["error"])
    return result


@pytest.fixture(scope="module", autouse=True)
def _warmed_up() -> Iterator[None]:
    """Airflow's own modules are compiled, and what it writes once is written."""
    for path in DAG_FILES:
        parse(path, WARM="up")
    yield
    process, _ = processor()
    assert process.stdin is not None
    process.stdin.close()
    process.wait()


@pytest.fixture(scope="module", params=DAG_FILES, ids=lambda path: path.name)
def parsed(request: pytest.FixtureRequest) -> dict[str, Any]:
    return parse(request.param)


@pytest.fixture(scope="module")
def dag(parsed: dict[str, Any]) -> dict[str, Any]:
    (found,) = parsed["dags"]
    return dict(found)


def test_there_are_dags() -> None:
    names = ["music_streaming_maintenance.py", "music_streaming_pipeline.py", "music_streaming_watch.py"]
    assert [path.name for path in DAG_FILES] == names


def test_parses_without_pyspark_and_writes_nothing(parsed: dict[str, Any]) -> None:
    assert not parsed["pyspark"]
    assert not [path for path in parsed["written"] if "__pycache__" not in path and not path.startswith("/dev/")]


def test_has_tags_and_a_runbook(dag: dict[str, Any]) -> None:
    assert dag["tags"]
    for part in ("rerun safe", "## Tasks", "## Settings"):
        assert part in dag["doc_md"]
    missing = [task for task in dag["tasks"] if f"`{task}`" not in dag["doc_md"]]
    assert not missing, f"the runbook says nothing of {missing}"


def test_one_run_at_a_time_and_no_catching_up(dag: dict[str, Any]) -> None:
    assert dag["max_active_runs"] == 1
    assert not dag["catchup"]


def test_every_task_has_owner_retries_and_documentation(dag: dict[str, Any]) -> None:
    for name, task in dag["tasks"].items():
        assert task["owner"] not in ("", "airflow"), name
        assert task["retries"] >= 1, name
        assert task["retry_seconds"] > 0, name
        assert task["doc"], name


@pytest.fixture(scope="module")
def tasks() -> dict[str, Any]:
    """Tasks of the pipeline."""
    (found,) = parse(PIPELINE)["dags"]
    return dict(found["tasks"])


def test_any_failure_is_alerted_and_fails_the_run(tasks: dict[str, Any]) -> None:
    assert tasks["mark_failed"]["trigger_rule"] == "one_failed"
    assert all(task["callback"] for task in tasks.values()), "its reason would not be known"
    heard, new = set(), {"mark_failed"}
    while new:
        heard |= new
        new = {upstream for task in new for upstream in tasks[task]["upstream"]} - heard
    assert set(tasks) - heard == {"done", "clean_up", "report_run"}
    leaves = {name for name, task in tasks.items() if not set(task["downstream"]) - {"clean_up"}} - {"clean_up"}
    assert leaves == {"report_run", "done"}, "with report_run as its only end a failed run would count as a success"
    assert tasks["report_run"]["trigger_rule"] == "all_done"
    assert {"mark_failed"} < set(tasks["report_run"]["upstream"])
    assert tasks["clean_up"]["teardown"]


def test_redshift_comes_when_the_files_are_settled(tasks: dict[str, Any]) -> None:
    """As a failure there gives back the claims that are left."""
    assert "archive_files" in tasks["prepare_redshift"]["upstream"]
    assert {"prepare_redshift"} <= set(tasks["load_redshift"]["upstream"])
    assert set(tasks["load_redshift"]["downstream"]) == {"mark_failed", "done"}
    assert tasks["done"]["trigger_rule"] == tasks["prepare_redshift"]["trigger_rule"] == "none_failed_min_one_success"


def test_edges_follow_from_arguments(tasks: dict[str, Any]) -> None:
    assert tasks["run_spark_app"]["upstream"] == ["build_job"]
    request = {"application_id", "config", "configuration_overrides", "execution_role_arn", "job_driver", "name"}
    assert request <= set(tasks["run_spark_app"]["templated"]), "the request would not be seen as it is sent"
    for name in ("validate_inputs", "build_job", "prepare_delivery", "write_to_dynamodb", "mark_as_processed"):
        assert "claim_files" in tasks[name]["upstream"], name
    assert tasks["verify_dynamodb"]["outlets"] == ["music_streaming_kpis_dynamodb", "music_streaming_kpis_lake"]


def test_params_have_types_limits_and_descriptions(dag: dict[str, Any]) -> None:
    params = dag["params"]
    assert params["max_executors"]["type"] == ["null", "integer"]
    assert params["max_executors"]["minimum"] == 1
    assert params["driver_cores"]["enum"] == [None, 1, 2, 4, 8, 16]
    assert params["job_settings"]["type"][:2] == ["null", "object"]
    assert all(schema["section"] for schema in params.values())


QUEUE = "https://sqs.eu-central-1.amazonaws.com/123456789012/files"


@pytest.mark.parametrize(
    ("settings", "timetable"),
    [
        ({}, ("CronTriggerTimetable", "CronDataIntervalTimetable")),
        ({"SCHEDULE": "manual"}, ("NullTimetable",)),
        ({"SCHEDULE": "0 6 * * *"}, ("CronTriggerTimetable", "CronDataIntervalTimetable")),
        ({"SCHEDULE": "on_arrival", "QUEUE_URL": QUEUE}, ("AssetTriggeredTimetable",)),
    ],
    ids=["daily", "manual", "cron", "on arrival"],
)
def test_the_schedule_comes_from_the_environment(settings: dict[str, str], timetable: tuple[str, ...]) -> None:
    (found,) = parse(PIPELINE, **settings)["dags"]
    assert found["schedule"] in timetable


def test_maintenance_is_weekly_and_alerts_by_itself() -> None:
    (found,) = parse(MAINTENANCE)["dags"]
    assert found["schedule"] in ("CronTriggerTimetable", "CronDataIntervalTimetable")
    assert list(found["tasks"]) == ["read_settings", "build_job", "compact_lake", "delete_old_samples"]
    assert found["tasks"]["delete_old_samples"]["upstream"] == ["compact_lake", "read_settings"]
    assert all(task["callback"] for task in found["tasks"].values())
    (by_hand,) = parse(MAINTENANCE, MAINTENANCE_SCHEDULE="manual")["dags"]
    assert by_hand["schedule"] == "NullTimetable"


def test_on_arrival_needs_a_queue() -> None:
    with pytest.raises(ImportError, match="MUSIC_KPIS_DAG_QUEUE_URL"):
        parse(PIPELINE, SCHEDULE="on_arrival")


@pytest.mark.parametrize("deferrable", ["true", "false"])
def test_waiting_tasks_leave_their_worker_by_setting(deferrable: str) -> None:
    (found,) = parse(PIPELINE, DEFERRABLE=deferrable)["dags"]
    for task in ("wait_for_streams", "run_spark_app", "load_redshift"):
        assert found["tasks"][task]["deferrable"] is (deferrable == "true")


def test_the_package_parses_on_its_own(package: Path) -> None:
    (found,) = parse(package / "dags" / PIPELINE.name, package / "dags")["dags"]
    assert found["dag_id"] == "music_streaming_pipeline"
