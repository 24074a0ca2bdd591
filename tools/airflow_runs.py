"""Runs of the DAG by a real Airflow on SQLite, in a home folder of its own.

airflow = Airflow(get_airflow("3.3"), home, aws.environment, variables={"bucket_name": "b"})
run = airflow.run_dag({"table_prefix": "x-"})        # `airflow dags test`: all tasks, to the end
run.states()                                         # {"claim_files": "success", …}
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tools.airflow_tools import AirflowVersion
from tools.dynamodb_local import free_port
from tools.processes import stop_group
from tools.toolchain import BUILD, ROOT, is_made_from, mark_made_from

DAG_ID = "music_streaming_pipeline"
DAGS = ROOT / "dags"
DATABASE = "airflow.db"
ASSETS = ("music_streaming_kpis_dynamodb", "music_streaming_kpis_lake", "music_streaming_runs")
RUN_TIMEOUT_S = 900
API_PATIENCE_S = 30


@dataclass(frozen=True)
class TaskRun:
    """One task instance as the database knows it."""

    task: str
    map_index: int
    state: str | None
    try_number: int
    seconds: float | None

    @property
    def label(self) -> str:
        """`write_to_dynamodb[2]`."""
        return self.task if self.map_index < 0 else f"{self.task}[{self.map_index}]"


@dataclass(frozen=True)
class DagRun:
    """A run that has ended."""

    run_id: str
    state: str
    tasks: tuple[TaskRun, ...]
    log: str = field(repr=False, default="")

    def states(self) -> dict[str, str | None]:
        """The state of each task; of a mapped one, of its first instance."""
        found: dict[str, str | None] = {}
        for task in self.tasks:
            found.setdefault(task.task, task.state)
        return found


@dataclass
class Airflow:
    """An Airflow with its own home; `settings` are environment variables `MUSIC_KPIS_DAG_*` without that prefix."""

    version: AirflowVersion
    home: Path
    aws: Mapping[str, str]
    variables: Mapping[str, str] = field(default_factory=dict)
    connections: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    dags: Path = DAGS
    port: int = 0

    def environment(self) -> dict[str, str]:
        """What a process of this Airflow gets: nothing of the caller's AWS, Airflow or Python."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "AIRFLOW", "MUSIC_KPIS_", "PYTHON"))}
        connections = {"aws_conn": {"conn_type": "aws"}, **self.connections}
        return {
            **kept,
            **self.aws,
            "PATH": f"{self.version.venv / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "TZ": "UTC",
            # Schedulers and workers put the folder of DAGs on the path by themselves; `dags test` of 3.0 does not.
            "PYTHONPATH": str(self.dags),
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.dags),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self.home / DATABASE}",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
            **{f"AIRFLOW_VAR_{name.upper()}": value for name, value in self.variables.items()},
            **{f"AIRFLOW_CONN_{name.upper()}": json.dumps(value) for name, value in connections.items()},
            **{f"MUSIC_KPIS_DAG_{name}": value for name, value in self.settings.items()},
        }

    def prepare(self) -> None:
        """Make home and database; a migrated database is kept for each version and copied."""
        self.home.mkdir(parents=True, exist_ok=True)
        if (self.home / DATABASE).exists():
            return
        template = BUILD / "airflow" / f"database-{self.version.name}"
        with template.with_suffix(".lock").open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            if not is_made_from(template, self.version.lock):
                shutil.rmtree(template, ignore_errors=True)
                template.mkdir(parents=True)
                maker = Airflow(self.version, template, {})
                maker.command("db", "migrate")
                mark_made_from(template, self.version.lock)
        shutil.copyfile(template / DATABASE, self.home / DATABASE)
        if self.version.name == "3.0":
            self._activate_assets()

    def _activate_assets(self) -> None:
        """Do what a scheduler does for assets: `dags test` of Airflow 3.0 refuses tasks whose assets are not active."""
        now = datetime.now(UTC).isoformat(sep=" ")
        with closing(sqlite3.connect(self.home / DATABASE)) as database, database:
            for name in ASSETS:
                database.execute(
                    'INSERT INTO asset (name, uri, "group", extra, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?)',
                    (name, name, "asset", "{}", now, now),
                )
                database.execute("INSERT INTO asset_active (name, uri) VALUES (?, ?)", (name, name))

    def command(self, *arguments: str) -> str:
        """Run `airflow …` and return its output; `CalledProcessError` when it fails."""
        done = subprocess.run(
            [self.version.command, *arguments], env=self.environment(), capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            sys.stderr.write(done.stdout + done.stderr)
            done.check_returncode()
        return done.stdout

    def start_run(self, params: Mapping[str, Any] | None = None, dag_id: str = DAG_ID) -> subprocess.Popen[str]:
        """Start `airflow dags test` in a process group of its own; `log` of the home gets its output."""
        self.prepare()
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        # Only the DAG's own file is parsed; it has the DAG's name.
        command = [str(self.version.command), "dags", "test", dag_id, now, "--conf", json.dumps(dict(params or {}))]
        command += ["--dagfile-path", str(self.dags / f"{dag_id}.py")]
        with self.log.open("a") as log:
            return subprocess.Popen(
                command,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                text=True,
            )

    def request(self, method: str, path: str, content: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Ask the REST API of a running `scheduler`, as the UI does; what it can't answer is asked again.

        SQLite refuses a write now and then while another goes on; the API then answers with 500.
        """

        def send(url: str, token: str = "") -> dict[str, Any]:
            data = None if content is None or not token else json.dumps(content).encode()
            headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
            asked = urllib.request.Request(url, data, headers, method=method if token else "GET")  # noqa: S310
            with urllib.request.urlopen(asked, timeout=60) as answer:  # noqa: S310
                found: dict[str, Any] = json.load(answer)
                return found

        deadline = time.monotonic() + API_PATIENCE_S
        while True:
            try:
                token = send(f"{self.url}/auth/token")["access_token"]
                return send(f"{self.url}/api/v2/{path}", token)
            except urllib.error.HTTPError as error:
                if error.code < 500 or time.monotonic() > deadline:
                    raise
            time.sleep(1)

    def answers(self) -> bool:
        """Whether the API is up and the DAG was parsed."""
        with suppress(urllib.error.URLError, ConnectionError):
            return bool(self.request("GET", f"dags/{DAG_ID}"))
        return False

    @property
    def url(self) -> str:
        """Where a running `scheduler` has its UI and API."""
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def scheduler(self, port_of_ui: int = 0) -> Iterator[subprocess.Popen[bytes]]:
        """Run `airflow standalone` (scheduler, DAG processor, triggerer, web UI) as long as the block lasts."""
        import psutil

        self.prepare()
        self.port = port_of_ui or free_port()
        port = str(self.port)
        env = self.environment() | {
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__PARALLELISM": "4",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
            "AIRFLOW__API__PORT": port,
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "5",
            # Half a core is busy with it where files are parsed again and again: only people edit them meanwhile.
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "30" if port_of_ui else "3600",
        }
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [self.version.command, "standalone"],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            stop_group(process)
            for child in children:  # some have sessions of their own
                with suppress(psutil.NoSuchProcess):
                    child.kill()

    @property
    def log(self) -> Path:
        """Output of all runs by this Airflow."""
        return self.home / "runs.log"

    def run_dag(self, params: Mapping[str, Any] | None = None, dag_id: str = DAG_ID) -> DagRun:
        """Run a DAG to its end."""
        start = self.log.stat().st_size if self.log.exists() else 0
        process = self.start_run(params, dag_id)
        try:
            process.wait(RUN_TIMEOUT_S)
        finally:
            stop_group(process)
        run = self.last_run(dag_id)
        with self.log.open() as log:
            log.seek(start)
            text = log.read()
        if run is None:
            raise AssertionError(f"airflow dags test made no run:\n{text[-4000:]}")
        return DagRun(run.run_id, run.state, run.tasks, text)

    def last_run(self, dag_id: str = DAG_ID) -> DagRun | None:
        """Return the newest run, from the database."""
        return self._run("select run_id, state from dag_run where dag_id = ? order by id desc limit 1", dag_id)

    def first_run(self, dag_id: str = DAG_ID) -> DagRun | None:
        """Return the oldest run."""
        return self._run("select run_id, state from dag_run where dag_id = ? order by id limit 1", dag_id)

    def _run(self, query: str, dag_id: str) -> DagRun | None:
        with self._database() as database:
            row = database.execute(query, (dag_id,)).fetchone()
            if row is None:
                return None
            return DagRun(row[0], row[1], tuple(self._tasks(database, dag_id, row[0])))

    def state_of_run(self, dag_id: str, run_id: str) -> str | None:
        """Return the state of a run; None where there is none of that id."""
        with self._database() as database:
            query = "select state from dag_run where dag_id = ? and run_id = ?"
            found = database.execute(query, (dag_id, run_id)).fetchone()
            return None if found is None else str(found[0])

    def state_of_first_run(self, dag_id: str = DAG_ID) -> str | None:
        """Return the state of the oldest run."""
        run = self.first_run(dag_id)
        return None if run is None else run.state

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(f"file:{self.home / DATABASE}?mode=ro", uri=True, timeout=30)) as database:
            yield database

    def _tasks(self, database: sqlite3.Connection, dag_id: str, run_id: str) -> list[TaskRun]:
        rows = database.execute(
            "select task_id, map_index, state, try_number, start_date, end_date from task_instance "
            "where dag_id = ? and run_id = ? order by start_date is null, start_date, task_id, map_index",
            (dag_id, run_id),
        )
        return [
            TaskRun(task, index, state, tries, _seconds(start, end)) for task, index, state, tries, start, end in rows
        ]


def _seconds(start: str | None, end: str | None) -> float | None:
    if start is None or end is None:
        return None
    return (_instant(end) - _instant(start)).total_seconds()


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(re.sub(r"([+-]\d\d:\d\d|Z)$", "", text)).replace(tzinfo=UTC)


def kill_group(process: subprocess.Popen[Any]) -> None:
    """Kill a process group at once, as a machine that dies does."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
