"""The DAG's tasks after one another in one process, or the writer's command line, with points around each AWS request.

    python tasks.py STATE.json          # the DAG's tasks; what is done is in STATE.json, so a restart goes on there
    python tasks.py deliver …           # python -m kpi_pipeline deliver …

A task that was killed is begun anew, as Airflow does. `run_spark_app` is left out: the lake is there already.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = str(Path(__file__).resolve().parent)
sys.path[:] = [entry for entry in sys.path if entry != HERE]

from botocore.client import BaseClient  # noqa: E402 (not before the path is right)

from kpi_common.s3_files import S3Storage  # noqa: E402
from kpi_pipeline import cli, steps  # noqa: E402
from kpi_pipeline.files.arrivals import manifest_uri  # noqa: E402
from kpi_pipeline.settings import PipelineSettings  # noqa: E402
from tests.faults.points import Points  # noqa: E402

READS = ("Get", "List", "Head", "Describe", "BatchGet", "Scan")


class Requests:
    """Puts points around each AWS request that writes, and around the queries of the read-back."""

    def __init__(self, points: Points) -> None:
        self.task = ""
        request = BaseClient._make_api_call  # type: ignore[attr-defined]

        def wrapped(client: Any, operation: str, parameters: dict[str, Any]) -> Any:
            if operation.startswith(READS):
                return request(client, operation, parameters)
            name = f"{self.task}{operation}{_detail(operation, parameters)}"
            return points.around(name, lambda: request(client, operation, parameters))

        BaseClient._make_api_call = wrapped  # type: ignore[attr-defined]


def _detail(operation: str, parameters: dict[str, Any]) -> str:
    """Say what a request is about, whatever the run is called."""
    if "Key" in parameters and isinstance(parameters["Key"], str):
        key = parameters["Key"]
        last = key.rpartition("/")[2]
        return f" {key.partition('/')[0]} {'reason' if last.endswith('.reason.json') else last}"
    if operation == "PutItem":
        return f" {parameters['Item']['filename']['S']} {parameters['Item']['status']['S']}"
    if operation == "UpdateItem":
        expression = parameters["UpdateExpression"]
        return " release" if expression.startswith("REMOVE") else " take" if "#export_seq" in expression else " renew"
    if operation == "TransactWriteItems":
        return " complete" if any("Put" in action for action in parameters["TransactItems"]) else " writing"
    return ""


class State:
    """What Airflow's database knows: the run, and the results of the tasks that are done."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.content: dict[str, Any] = json.loads(path.read_text("utf-8"))

    def do(self, name: str, task: Callable[[], Any]) -> Any:
        """Do a task, unless it is done, and keep its result."""
        done = self.content["done"]
        if name not in done:
            done[name] = task()
            partial = self._path.with_suffix(".partial")
            partial.write_text(json.dumps(self.content), "utf-8")
            os.replace(partial, self._path)  # noqa: PTH105 (`Path.replace` has a point in it)
        return done[name]


def run_tasks(state: State, begin: Callable[[str], None]) -> None:
    """Do all tasks that are not done yet."""
    settings, run_id = state.content["settings"], state.content["run_id"]
    result = state.content["result"]

    def do(name: str, task: Callable[[], Any]) -> Any:
        begin(name)
        return state.do(name, task)

    run = do("claim_files", lambda: steps.claim_files(settings, run_id, lambda _: None))
    if run is None:
        return
    do("validate_inputs", lambda: steps.validate_inputs(run)[0])
    job = do("run_spark_app", lambda: end_job(PipelineSettings(**settings), run_id, result))
    groups = do("prepare_delivery", lambda: steps.prepare_delivery(run, 100)[0])
    written = [
        do(f"write_to_dynamodb {group['parts'][0]}", lambda group=group: steps.write_parts(run, group))  # type: ignore[misc]
        for group in groups
    ]
    do("verify_dynamodb", lambda: steps.verify_delivery(run, written)[0])
    do("mark_as_processed", lambda: steps.mark_as_processed(run, job)[0])
    archived = do("archive_files", lambda: steps.archive_files(run, job)[0])
    do("clean_up", lambda: steps.clean_up(run, done=archived is not None))


def end_job(settings: PipelineSettings, run_id: str, result: str) -> steps.SparkJob:
    """Let the result, which is there already, name the run's manifest, as the application does."""
    buckets, uri = S3Storage(), manifest_uri(settings, run_id)
    content = json.loads(buckets.read(result) or b"")
    manifest = buckets.find(uri)
    assert manifest is not None
    content["manifest"] = {"path": uri, "etag": manifest.etag}
    buckets.write(result, json.dumps(content).encode())
    return steps.SparkJob(job_id="job", log="", result=result)


def main(arguments: list[str]) -> int:
    """Run the tasks or the command."""
    points = Points.planned()
    requests = None
    if points is not None:
        requests = Requests(points)
        rename = Path.replace

        def wrapped(self: Path, target: Any) -> Any:
            return points.around(Path(target).name, lambda: rename(self, target))

        Path.replace = wrapped  # type: ignore[method-assign]
    if arguments[0] == "deliver":
        return cli.main(arguments)

    def begin(task: str) -> None:
        if requests is not None:
            requests.task = f"{task}: "

    run_tasks(State(Path(arguments[0])), begin)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
