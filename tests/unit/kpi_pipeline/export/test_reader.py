"""Manifests and files of exports: what is taken and what is refused, by name."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from kpi_common.errors import AppError, UsageError
from kpi_common.files import open_lake
from kpi_pipeline.errors import ExportError
from kpi_pipeline.export.reader import check_files, find_undelivered, latest_undelivered, read_export, read_part
from tests.support.export_files import DAILY, HOURLY, TABLES, change_manifest, write_export

DAY = {DAILY: [{"date": "2024-06-01", "genre": "東京\u2028\u0085", "n": 1}], HOURLY: []}
DAYS = {"2024-06-01": DAY, "2024-06-02": {}}


def manifest_of(lake: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((lake / "exports" / "run-1" / "manifest.json").read_text("utf-8"))
    return manifest


def check(lake: Path) -> None:
    opened = open_lake(str(lake))
    check_files(opened, read_export(opened, "run-1"))


def test_a_complete_export_is_read(tmp_path: Path) -> None:
    write_export(tmp_path, 1, DAYS)
    lake = open_lake(str(tmp_path))
    export = read_export(lake, "run-1")
    assert (export.dates, export.items, len(export.parts)) == (("2024-06-01", "2024-06-02"), 1, 1)
    items = read_part(lake, export, export.part(0))
    assert [item["genre"] for item in items[DAILY]] == [{"S": "東京\u2028\u0085"}]
    assert items[HOURLY] == []
    assert read_part(open_lake(f"file://{tmp_path}"), export, export.part(0)) == items
    with pytest.raises(UsageError, match="has no part 1"):
        export.part(1)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"schema_version": 2}, "schema_version 2, made by a newer application; this program reads up to 1"),
        ({"schema_version": "1"}, r"breaks its schema at \$.schema_version"),
        ({"export_seq": 0}, r"breaks its schema at \$.export_seq"),
        ({"dates": ["June"]}, r"breaks its schema at \$.dates\[0\]"),
        ({"run_id": "run-2"}, "says that it belongs to run run-2"),
        ({"dates": ["2024-06-01"]}, "dates and the parts' dates differ: .'2024-06-02'"),
        ({"parts": []}, "contradicts itself"),
    ],
)
def test_wrong_manifests_are_refused(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    write_export(tmp_path, 1, DAYS)
    change_manifest(tmp_path, "run-1", **changes)
    with pytest.raises(ExportError, match=told):
        check(tmp_path)


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"partition_key": {"name": "genre", "type": "N"}}, "the partition key must be the date"),
        ({"items": 5}, "DailyGenreKPIs has 5 items, but 1 in its files"),
        ({"name": "Another"}, "which is not listed"),
        ({"name": HOURLY}, "a table is listed twice"),
        ({"partition_key": None}, "breaks its schema"),
    ],
)
def test_wrong_tables_are_refused(tmp_path: Path, table: dict[str, Any], told: str) -> None:
    write_export(tmp_path, 1, DAYS)
    tables = manifest_of(tmp_path)["tables"]
    change_manifest(tmp_path, "run-1", tables=[{**tables[0], **table}, tables[1]])
    with pytest.raises(ExportError, match=told):
        check(tmp_path)


@pytest.mark.parametrize("path", ["../secret.gz", "/etc/passwd", "a/../../b"])
def test_paths_must_stay_in_the_export(tmp_path: Path, path: str) -> None:
    write_export(tmp_path, 1, DAYS)
    parts = manifest_of(tmp_path)["parts"]
    parts[0]["files"][0]["path"] = path
    change_manifest(tmp_path, "run-1", parts=parts)
    with pytest.raises(ExportError, match="breaks its schema"):
        check(tmp_path)


def test_missing_manifest(tmp_path: Path) -> None:
    write_export(tmp_path, 1, DAYS, finished=False)
    with pytest.raises(ExportError, match=r"run-1/manifest\.json is missing"):
        check(tmp_path)
    (tmp_path / "exports" / "run-1" / "manifest.json").write_text("{", "utf-8")
    with pytest.raises(ExportError, match=r"manifest\.json is not valid JSON"):
        check(tmp_path)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    write_export(tmp_path, 1, DAYS)
    file = tmp_path / "exports" / "run-1" / DAILY / "part-00000.json.gz"
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    with pytest.raises(ExportError, match=r"DailyGenreKPIs/part-00000\.json\.gz has \d+ bytes, but"):
        check(tmp_path)
    file.write_bytes(content[:-1] + b"\xff")
    with pytest.raises(ExportError, match=r"part-00000\.json\.gz has the sha256"):
        check(tmp_path)
    file.unlink()
    with pytest.raises(ExportError, match=r"part-00000\.json\.gz is missing"):
        check(tmp_path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"no gzip", "is not a whole gzip file"),
        (gzip.compress(b'{"Item":{"date":{"S":"2024-06-01"}}}\n' * 2, mtime=0), "has 2 items, but the manifest says 1"),
        (gzip.compress(b"{}", mtime=0), "line 1: not a line of DynamoDB JSON"),
        (gzip.compress(b'{"Item":{"date":"2024-06-01"}}', mtime=0), "line 1: not a line of DynamoDB JSON"),
        (
            gzip.compress(b'{"Item":{"date":{"S":"2023-01-01"}}}', mtime=0),
            "'2023-01-01', which is none of the part's dates",
        ),
        (gzip.compress(b'{"Item":{"genre":{"S":"pop"}}}', mtime=0), "is None, which is none of the part's dates"),
    ],
)
def test_wrong_lines_are_named(tmp_path: Path, content: bytes, told: str) -> None:
    import hashlib

    write_export(tmp_path, 1, DAYS)
    (tmp_path / "exports" / "run-1" / DAILY / "part-00000.json.gz").write_bytes(content)
    parts = manifest_of(tmp_path)["parts"]
    parts[0]["files"][0].update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    change_manifest(tmp_path, "run-1", parts=parts)
    with pytest.raises(ExportError, match=told):
        check(tmp_path)


def test_latest_is_the_undelivered_one_with_the_highest_number(tmp_path: Path) -> None:
    lake = open_lake(str(tmp_path))
    assert latest_undelivered(lake) is None
    for export_seq in (9, 10, 2):
        write_export(tmp_path, export_seq, DAYS)
    write_export(tmp_path, 11, DAYS, finished=False)
    newest = latest_undelivered(lake)
    assert newest is not None
    assert newest.run_id == "run-10"
    receipt = {"schema_version": 1, "run_id": "run-10", "export_seq": 10, "delivered_at": "2024-06-26T00:00:00Z"}
    receipt = {**receipt, "seconds": 1, "dates": 2, "tables": {}, "undeliverable": []}
    lake.write("exports/run-10/delivered.json", json.dumps(receipt).encode())
    assert latest_undelivered(lake) is None, "the older ones are contained in what was delivered"


@pytest.mark.parametrize("run_id", ["", "a/b", "..", "a\\b"])
def test_run_ids_are_no_paths(tmp_path: Path, run_id: str) -> None:
    with pytest.raises(UsageError, match="is no run id"):
        read_export(open_lake(str(tmp_path)), run_id)


@pytest.mark.parametrize("uri", ["nowhere/at/all", "gs://bucket/x", "s3:///x"])
def test_lakes_that_cannot_be(uri: str) -> None:
    with pytest.raises(UsageError):
        open_lake(uri)


def test_places_that_cannot_be_read_or_written_are_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    lake = open_lake(str(tmp_path))
    with pytest.raises(AppError, match="file/receipt: can't be written: Not a directory"):
        lake.write("file/receipt", b"")
    with pytest.raises(FileNotFoundError, match="file/receipt"):
        lake.read("file/receipt")


def test_tables_without_indexes_may_leave_them_out(tmp_path: Path) -> None:
    layout = {"partition_key": TABLES[DAILY]["partition_key"], "sort_key": None}
    write_export(tmp_path, 1, {"2024-06-01": {}}, tables={"T": layout})
    export = read_export(open_lake(str(tmp_path)), "run-1")
    assert [key.name for key in export.tables[0].keys] == ["date"]


def test_a_broken_manifest_does_not_stop_other_exports(tmp_path: Path) -> None:
    write_export(tmp_path, 1, DAYS)
    (tmp_path / "exports" / "run-1" / "manifest.json").write_text("{", "utf-8")
    with pytest.raises(ExportError, match=r"run-1/manifest\.json is not valid JSON"):
        latest_undelivered(open_lake(str(tmp_path)))
    write_export(tmp_path, 2, DAYS, run_id="run-2")
    found = find_undelivered(open_lake(str(tmp_path)))
    assert found.export is not None
    assert found.export.run_id == "run-2"
    assert len(found.broken) == 1
    assert "run-1/manifest.json is not valid JSON" in found.broken[0]
