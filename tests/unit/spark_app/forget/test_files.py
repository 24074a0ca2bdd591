import gzip
import io
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from kpi_common.files import LocalStorage, etag_of_content
from spark_app.forget.files import Naming, _lines, _look, _without_named, rewrite_file, search_folders
from spark_app.ingest.file_ledger import Ledger, LedgerFolder
from spark_app.recovery import open_lake
from spark_app.run.context import Context
from spark_app.run.files import FileVersion
from spark_app.run.forgotten import Forgotten
from spark_app.run.state import Rewriting, StateFile
from tests.unit.spark_app.builders import a_context
from tests.unit.spark_app.ingest.ledger_files import NOON, a_version
from tests.unit.spark_app.ingest.small_run import SmallRun, listen

FORGOTTEN = Forgotten(b"k" * 32).adding([17])
STREAMS = "user_id,track_id,listen_time"
USERS = "user_name,user_id,user_age"


def left(text: str, uri: str) -> str:
    """What remains of a file."""
    return _without_named(text.encode("utf-8", "surrogateescape"), uri, FORGOTTEN).decode("utf-8", "surrogateescape")


@pytest.mark.parametrize(
    ("uri", "text", "expected"),
    [
        ("/raw/streams/a.csv", f"{STREAMS}\r\n17,t,x\r\n1,17,x\r\n", f"{STREAMS}\r\n1,17,x\r\n"),
        ("/raw/streams/a.csv", f"\ufeff{STREAMS}\n\n1,t,\udcff\n17,t,x", f"\ufeff{STREAMS}\n\n1,t,\udcff\n"),
        ("/raw/streams/a.csv", f'{STREAMS}\n"17,t,x\n1,"a""17,b",x\n', f'{STREAMS}\n1,"a""17,b",x\n'),
        ("/raw/streams/a.csv", "17,t,x\n1,t,x\n", "1,t,x\n"),
        ("/raw/streams/a.csv", f"{STREAMS}\nx,17,y\nx,t,y\n", f"{STREAMS}\nx,t,y\n"),
        ("/raw/streams/a.csv", "user_id;track_id\n17;t\n1;t\n", "user_id;track_id\n1;t\n"),
        ("/raw/users/a.csv", f"{USERS}\nAnn,1,17\nBob,17,30\n", f"{USERS}\nAnn,1,17\n"),
        (
            "/raw/users/a.csv",
            f'{USERS}\n"A\n\nn",1,9\n\n"B\n"" 17\n",17,30\n"C\n17",2,3\n',
            f'{USERS}\n"A\n\nn",1,9\n\n"C\n17",2,3\n',
        ),
        ("/raw/users/a.csv", f'{USERS}\n"Ann,1,3\nBob,17,3\nCy,2,3\n', f'{USERS}\n"Ann,1,3\nCy,2,3\n'),
        ("/raw/users/a.csv", f"{USERS}\nBob,17\n", f"{USERS}\n"),
        ("/archive/users/2024-06-25/a.csv", "", ""),
    ],
)
def test_the_records_of_forgotten_users_go_and_all_other_bytes_stay(uri: str, text: str, expected: str) -> None:
    assert left(text, uri) == expected
    assert left(expected, uri) == expected
    data = text.encode("utf-8", "surrogateescape")
    packed = _without_named(gzip.compress(data), f"{uri}.gz", FORGOTTEN)
    assert gzip.decompress(packed) == expected.encode("utf-8", "surrogateescape")
    assert "".join(line for line, _ in _lines(io.BytesIO(data), uri, FORGOTTEN)) == text


def test_samples_of_results_and_reasons_are_looked_at() -> None:
    samples = [{"raw": "17,t", "reasons": []}, {"raw": "1,t,17x", "reasons": []}]
    reason = {"name": "streams/a.csv", "samples": samples}
    result = {"files": [{"name": "a", "samples": samples}, {"name": "b", "samples": []}], "rows": 17}
    for content in (reason, result):
        found = json.loads(_without_named(json.dumps(content).encode(), "a.json", FORGOTTEN))
        assert found == json.loads(json.dumps(content).replace(json.dumps(samples[0]) + ", ", ""))


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("a.csv.gz", b"no gzip", "Not a gzipped file"),
        ("a.csv.gz", gzip.compress(b"x" * 9999, mtime=0)[:-9], "ended before"),
        ("a.csv", "user_id,track_id".encode("utf-16"), "not UTF-8"),
        ("a.json", b"{", "Expecting"),
    ],
)
def test_a_file_that_cant_be_searched_is_said(tmp_path: Path, name: str, data: bytes, problem: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    found = _look(str(path), FORGOTTEN)
    assert found.lines == 0
    assert "can't be searched" in found.problem
    assert problem in found.problem


def test_files_of_songs_are_no_ones_and_a_folder_without_files_is_said(spark: SparkSession, tmp_path: Path) -> None:
    run = SmallRun(spark, tmp_path)
    run.put("streams/a.csv", listen(1, user=17), listen(2), listen(3, user=17))
    run.put("streams/b.csv", listen(1))
    run.put("songs/s.csv", "17,t,Ann,Album,Tune,17,1000,pop")
    folders = [str(tmp_path / "input"), str(tmp_path / "none"), str(tmp_path / "input" / "streams")]
    found = search_folders(run.context, folders, FORGOTTEN)
    assert found == [Naming(str(tmp_path / "input" / "streams" / "a.csv"), 2)]
    assert run.context.result.warnings == [f"--files {tmp_path}/none: holds no CSV file"]


@pytest.fixture
def taken_in(tmp_path: Path) -> tuple[Context, Path, FileVersion]:
    """A lake with one file in its ledger, and that file."""
    context, path = a_context(tmp_path / "lake"), tmp_path / "input" / "streams" / "a.csv"
    path.parent.mkdir(parents=True)
    path.write_text(f"{STREAMS}\n17,t,x\n1,t,x\n")
    os.utime(path, (NOON.timestamp(), NOON.timestamp()))
    version = a_version(uri=str(path), etag=etag_of_content(path.read_bytes()), run_id="before")
    state = StateFile(context.lake, "r")
    LedgerFolder(state).settle(Ledger(), [version], "settle")
    return context, path, version


def known(context: Context) -> FileVersion:
    """What the ledger then says of the file, when the lake is opened."""
    state = open_lake(context)
    assert state.value.rewriting is None
    (version,) = LedgerFolder(state).read(["streams/a.csv"]).of("streams/a.csv")
    return version


def test_a_rewritten_file_stays_the_version_that_it_was(taken_in: tuple[Context, Path, FileVersion]) -> None:
    context, path, before = taken_in
    found = rewrite_file(context, open_lake(context), Naming(str(path), 1), FORGOTTEN)
    assert found == Naming(str(path), 1, rewritten=True)
    assert path.read_text() == f"{STREAMS}\n1,t,x\n"
    assert path.stat().st_mtime == NOON.timestamp()
    now = LocalStorage().find(str(path))
    assert now is not None
    assert known(context) == replace(before, etag=etag_of_content(path.read_bytes()), stat=now.stat, size=now.size)


@pytest.mark.parametrize("written", [True, False])
def test_a_killed_rewriting_is_settled_when_the_lake_is_opened(
    taken_in: tuple[Context, Path, FileVersion], *, written: bool
) -> None:
    context, path, before = taken_in
    new = _without_named(path.read_bytes(), str(path), FORGOTTEN)
    entry = Rewriting(before.name, str(path), before.etag, etag_of_content(new))
    StateFile(context.lake, "r").save("rewrite", rewriting=entry)
    if written:
        path.write_bytes(new)
    assert known(context).etag == (etag_of_content(new) if written else before.etag)


def test_a_file_that_changed_meanwhile_is_left(
    taken_in: tuple[Context, Path, FileVersion], monkeypatch: pytest.MonkeyPatch
) -> None:
    context, path, before = taken_in
    monkeypatch.setattr(LocalStorage, "rewrite_if", lambda *_: None)
    found = rewrite_file(context, open_lake(context), Naming(str(path), 1), FORGOTTEN)
    assert "it changed meanwhile" in found.problem
    assert known(context) == before
