"""Redshift's Data API over HTTP, with a real PostgreSQL behind it. COPY of JSON is done here, from S3."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from kpi_common.files import storage_for

# Of Redshift alone, so not for PostgreSQL
_DISTRIBUTION = re.compile(r"\n(?:DISTSTYLE|DISTKEY|SORTKEY|COMPOUND SORTKEY) [^\n]+")
_COPY = re.compile(
    r"COPY (?P<table>\S+) \((?P<columns>[^)]+)\)\nFROM '(?P<manifest>[^']+)' IAM_ROLE (?:default|'arn:[^']+')\n"
    r"MANIFEST GZIP FORMAT JSON '(?P<paths>[^']+)' TIMEFORMAT 'auto' COMPUPDATE OFF"
)
MOST_STATEMENTS, MOST_BYTES = 40, 100_000


@dataclass
class Outcome:
    """What became of a transaction: rows by statement, and the error of the one that failed, if any."""

    rows: list[list[list[str | None]]] = field(default_factory=list)
    failed: int | None = None
    error: str = ""


Run = Callable[[Sequence[str]], Outcome]


def run_in_postgres(script: Callable[[str], Any]) -> Run:
    """Return what runs statements as one transaction.

    Args:
        script: `Postgres.script`.
    """

    def run(statements: Sequence[str]) -> Outcome:
        assert len(statements) <= MOST_STATEMENTS
        assert all(len(sql.encode()) <= MOST_BYTES for sql in statements)
        lines = ["\\pset format csv", "\\pset tuples_only on", "\\pset null '<null>'", "BEGIN;"]
        for sql in statements:
            copied = _COPY.fullmatch(sql)
            assert copied or not sql.startswith("COPY"), sql
            lines += ["\\echo @@", f"{_inserted(copied) if copied else _DISTRIBUTION.sub('', sql)};"]
        done = script("\n".join([*lines, "COMMIT;"]))
        parts = done.stdout.split("@@\n")[1:]
        rows = [[[None if v == "<null>" else v for v in row] for row in csv.reader(io.StringIO(p))] for p in parts]
        if done.returncode == 0:
            return Outcome(rows)
        return Outcome(rows, len(parts) - 1, done.stderr.partition("ERROR:  ")[2].splitlines()[0])

    return run


def _inserted(copy: re.Match[str]) -> str:
    """Do what COPY does: read the files of the manifest, and take from each line what the paths name."""
    manifest, paths = (json.loads(storage_for(uri).read(uri) or b"") for uri in copy.group("manifest", "paths"))
    steps = [re.findall(r"\['(.*?)'\]", path) for path in paths["jsonpaths"]]
    assert all(step[0] == "Item" for step in steps)
    assert all(entry["mandatory"] is True for entry in manifest["entries"])
    files = [gzip.decompress(storage_for(one["url"]).read(one["url"]) or b"") for one in manifest["entries"]]
    items = [json.loads(line) for content in files for line in content.splitlines()]
    rows = [f"({', '.join(_literal(item, step) for step in steps)})" for item in items]
    return f"INSERT INTO {copy['table']} ({copy['columns']}) VALUES {', '.join(rows)}"  # noqa: S608


def _literal(value: Any, steps: list[str]) -> str:
    for step in steps:
        value = value.get(step, {})
    if value == {}:
        return "NULL"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return "'" + text.replace("'", "''") + "'"


@dataclass
class DataApiServer:
    """Statements by id; each is under way when it is asked for the first time."""

    run: Run
    url: str = ""
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    statements: dict[str, tuple[list[str], Outcome]] = field(default_factory=dict)

    def answer(self, action: str, request: dict[str, Any]) -> dict[str, Any]:
        asked_before = (action, request) in self.requests
        self.requests.append((action, request))
        if action == "BatchExecuteStatement":
            identity = str(uuid.uuid4())
            self.statements[identity] = (request["Sqls"], self.run(request["Sqls"]))
            return {"Id": identity}
        identity, _, number = request["Id"].partition(":")
        sqls, outcome = self.statements[identity]
        if action == "GetStatementResult":
            records = [
                [{"isNull": True} if value is None else {"stringValue": value} for value in row]
                for row in outcome.rows[int(number) - 1]
            ]
            first = int(request.get("NextToken", 0))  # pages of two rows
            more = {"NextToken": str(first + 2)} if len(records) > first + 2 else {}
            return {"Records": records[first : first + 2], **more}
        assert action == "DescribeStatement", action
        status = "FINISHED" if outcome.failed is None else "FAILED"
        described = {"Id": identity, "Status": status if asked_before else "STARTED"}
        if asked_before:
            subs = [
                {"Id": f"{identity}:{place + 1}", "Status": "FINISHED", "QueryString": sql}
                for place, sql in enumerate(sqls)
            ]
            for sub in subs[outcome.failed :] if outcome.failed is not None else []:
                sub["Status"] = "ABORTED"
            if outcome.failed is not None:
                subs[outcome.failed] |= {"Status": "FAILED", "Error": f"ERROR: {outcome.error}"}
                described["Error"] = f"ERROR: {outcome.error}"
            described["SubStatements"] = subs
        return described


@contextmanager
def data_api(run: Run) -> Iterator[DataApiServer]:
    """Serve it as long as the `with` block lasts."""
    served = DataApiServer(run)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            action = self.headers["X-Amz-Target"].partition(".")[2]
            body = self.rfile.read(int(self.headers["Content-Length"]))
            content = json.dumps(served.answer(action, json.loads(body))).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    served.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
