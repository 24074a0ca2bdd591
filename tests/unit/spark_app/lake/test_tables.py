"""What a lake says of itself in lake.json, and files that only the run that holds the lake may write."""

import json
from pathlib import Path
from typing import Any

import pytest

from kpi_common.local_files import LocalStorage
from spark_app.config.settings import Settings, load_settings
from spark_app.errors import LockLostError, UsageError
from spark_app.lake.tables import Lake, check_lake, mark_lake

MARKER = "lake.json"


def settings(**changes: object) -> Settings:
    return load_settings("local", [f"{name}={value}" for name, value in changes.items()])


def marker(folder: Path) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads((folder / MARKER).read_bytes())
    return fields


def put_marker(folder: Path, **fields: object) -> None:
    (folder / MARKER).write_text(json.dumps(fields))


def lost() -> None:
    raise LockLostError("lost")


def test_a_new_lake_gets_an_id_of_its_own_and_keeps_it(tmp_path: Path) -> None:
    lakes = [Lake(str(tmp_path / name)) for name in ("one", "two")]
    for lake in lakes:
        mark_lake(lake, settings(source_time_zone="Europe/Berlin"))
    ids = [lake.lake_id for lake in lakes]
    assert len(set(ids)) == 2
    mark_lake(lakes[0], settings(source_time_zone="Europe/Berlin"))
    assert lakes[0].lake_id == ids[0]
    zones = {"kpi_time_zone": "UTC", "source_time_zone": "Europe/Berlin"}
    assert marker(tmp_path / "one") == {"schema_version": 2, "lake_id": ids[0], **zones}


def test_a_lake_of_the_release_before_gets_an_id_when_it_is_opened(tmp_path: Path) -> None:
    put_marker(tmp_path, schema_version=1, kpi_time_zone="UTC")
    lake = Lake(str(tmp_path))
    mark_lake(lake, settings())
    assert marker(tmp_path)["lake_id"] == lake.lake_id != ""
    assert marker(tmp_path)["source_time_zone"] == "UTC"


@pytest.mark.parametrize("setting", ["kpi_time_zone", "source_time_zone"])
def test_a_zone_that_changes_from_run_to_run_is_refused(tmp_path: Path, setting: str) -> None:
    mark_lake(Lake(str(tmp_path)), settings())
    with pytest.raises(UsageError, match=rf"with {setting} UTC, but the setting says Asia/Tokyo; .* keep (the|it)"):
        check_lake(str(tmp_path), settings(**{setting: "Asia/Tokyo"}))


@pytest.mark.parametrize("more", [{}, {"kpi_time_zone": 5}])
def test_a_lake_of_a_newer_release_is_refused(tmp_path: Path, more: dict[str, object]) -> None:
    put_marker(tmp_path, schema_version=3, **more)
    for attempt in (lambda: check_lake(str(tmp_path), settings()), lambda: mark_lake(Lake(str(tmp_path)), settings())):
        with pytest.raises(UsageError, match=r"schema_version 3, made by a newer release .* up to 2: use that release"):
            attempt()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{}",
        "\xff",
        '{"schema_version": "x", "kpi_time_zone": "UTC"}',
        '{"schema_version": 1, "kpi_time_zone": null}',
        '{"schema_version": 2, "kpi_time_zone": "UTC"}',
        '{"schema_version": 2, "kpi_time_zone": "UTC", "source_time_zone": "UTC", "lake_id": ""}',
    ],
)
def test_a_damaged_marker_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / MARKER).write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=r"lake\.json: can't be read; restore the file"):
        check_lake(str(tmp_path), settings())


def test_a_folder_with_files_of_others_is_no_lake(tmp_path: Path) -> None:
    check_lake(str(tmp_path / "missing"), settings())
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "result.json").touch()
    (tmp_path / ".lake.json.guard").touch()
    check_lake(str(tmp_path), settings())
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(UsageError, match=r"not a lake of this application \(it holds holiday\.jpg"):
        check_lake(str(tmp_path), settings())


def test_of_two_who_mark_a_new_lake_the_first_counts(tmp_path: Path) -> None:
    """The second fell asleep before it wrote; it goes on with the lake as it is, or not at all."""
    other = Lake(str(tmp_path))

    def while_asleep() -> None:
        if not (tmp_path / MARKER).exists():
            mark_lake(other, settings())

    mark_lake(Lake(str(tmp_path), while_asleep), settings())
    assert Lake(str(tmp_path)).lake_id == other.lake_id
    (tmp_path / MARKER).unlink()
    with pytest.raises(UsageError, match="kpi_time_zone UTC"):
        mark_lake(Lake(str(tmp_path), while_asleep), settings(kpi_time_zone="Asia/Tokyo"))


def test_who_lost_the_lake_writes_and_deletes_nothing(tmp_path: Path) -> None:
    Lake(str(tmp_path)).write("ops/a", b"1")
    lake = Lake(str(tmp_path), lost)
    for attempt in (
        lambda: lake.write("ops/a", b"2"),
        lambda: lake.write_if("ops/b", b"2", None),
        lambda: lake.delete_folder("ops"),
        lambda: mark_lake(lake, settings()),
    ):
        with pytest.raises(LockLostError):
            attempt()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["a"]
    assert lake.read_tagged("ops/a")[0] == b"1"


def test_a_file_that_another_wrote_since_it_was_read_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(str(tmp_path))
    assert lake.read_tagged("ops/a") == (None, None)
    first = lake.write_if("ops/a", b"1", None)
    assert first is not None
    assert lake.write_if("ops/a", b"2", None) is None
    assert lake.write_if("ops/a", b"3", first) == lake.read_tagged("ops/a")[1]
    assert lake.write_if("ops/a", b"4", first) is None
    real = LocalStorage.write_if

    def reply_lost(*arguments: Any) -> None:
        real(*arguments)

    monkeypatch.setattr(LocalStorage, "write_if", reply_lost)
    tag = lake.read_tagged("ops/a")[1]
    assert lake.write_if("ops/a", b"5", tag) == lake.read_tagged("ops/a")[1]
    assert lake.read_tagged("ops/a")[0] == b"5"


def test_what_a_run_kept_in_files_is_deleted(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    lake.empty_scratch()
    left = Path(lake.scratch, "a-run", "rdd-1", "part-00000")
    left.parent.mkdir(parents=True)
    left.touch()
    lake.empty_scratch()
    assert list(tmp_path.iterdir()) == []
