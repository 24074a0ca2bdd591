import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kpi_common.contracts import Dataset
from spark_app.errors import UsageError
from spark_app.ingest.discovery import is_ignored, list_input, read_manifest


def put(path: Path, data: bytes = b"x", modified_at: float = 1_719_300_000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (modified_at, modified_at))
    return path


def test_csv_files_below_the_three_folders_are_listed_by_age_then_name(tmp_path: Path) -> None:
    put(tmp_path / "streams" / "b.csv", modified_at=100)
    put(tmp_path / "streams" / "a.csv", modified_at=200)
    put(tmp_path / "streams" / "2024" / "06" / "c.csv.gz", modified_at=100)
    put(tmp_path / "songs" / "songs.csv", b"1234", modified_at=100.5)
    put(tmp_path / "other" / "d.csv")
    listing = list_input(str(tmp_path))
    assert [file.name for file in listing.files] == [
        "streams/2024/06/c.csv.gz",
        "streams/b.csv",
        "songs/songs.csv",
        "streams/a.csv",
    ]
    songs = listing.files[2]
    assert (songs.dataset, songs.size, songs.etag) == (Dataset.SONGS, 4, None)
    assert songs.modified_at == datetime(1970, 1, 1, 0, 1, 40, 500000, tzinfo=UTC)
    assert songs.uri == str(tmp_path / "songs" / "songs.csv")
    assert [file.compressed for file in listing.files] == [True, False, False, False]


def test_a_name_in_other_bytes_than_utf_8_is_told_and_passed_over(tmp_path: Path) -> None:
    put(tmp_path / "streams" / "a.csv")
    put(Path(os.fsdecode(os.fsencode(tmp_path) + b"/streams/caf\xe9.csv")))
    listing = list_input(str(tmp_path))
    assert [file.name for file in listing.files] == ["streams/a.csv"]
    assert listing.ignored == ("streams/caf\\xe9.csv",)
    json.dumps(listing.ignored, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("name", "passed_over"),
    [
        ("a.csv", False),
        ("a.csv.gz", False),
        ("a b=c%20é.csv", False),
        ("x/y/a.csv", False),
        ("_a.csv", False),  # seen, and rejected with a reason
        ("a.txt", True),
        ("a.CSV", True),
        ("a.csv.zip", True),
        ("a.csv.tmp", True),
        (".a.csv", True),
        ("_temporary/a.csv", True),
        (".hidden/x/a.csv", True),
        ("csv", True),
    ],
)
def test_only_files_that_are_meant_to_be_input_are_taken(name: str, passed_over: bool) -> None:
    assert is_ignored(name) is passed_over


def test_files_that_are_passed_over_are_named(tmp_path: Path) -> None:
    for name in ("a.csv", "_SUCCESS", "_temporary/b.csv", ".c.csv.crc"):
        put(tmp_path / "streams" / name)
    listing = list_input(str(tmp_path))
    assert [file.name for file in listing.files] == ["streams/a.csv"]
    assert listing.ignored == ("streams/.c.csv.crc", "streams/_SUCCESS", "streams/_temporary/b.csv")


def test_a_folder_without_any_input_is_a_usage_error(tmp_path: Path) -> None:
    put(tmp_path / "listens" / "a.csv")
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UsageError, match="expected is the layout"):
            list_input(str(folder))


Manifest = Callable[..., str]


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """Write a manifest of files; an entry's fields win over what fits a small file on disk."""

    def write(*entries: dict[str, Any], **fields: Any) -> str:
        files = []
        for entry in entries:
            name = entry.get("name", "streams/a.csv")
            path = tmp_path / "input" / name
            if not entry.pop("gone", False):
                put(path)
            base = {"dataset": name.partition("/")[0], "name": name, "path": str(path), "etag": None, "size": 1}
            files.append({**base, "modified_at": "2024-06-25T12:00:00Z", **entry})
        uri = tmp_path / "manifest.json"
        uri.write_text(json.dumps({"schema_version": 1, "run_id": "r", "files": files, **fields}))
        return str(uri)

    return write


def test_a_manifest_gives_files_and_their_order(manifest: Manifest) -> None:
    listing = read_manifest(
        manifest(
            {"name": "streams/a.csv", "modified_at": "2024-06-25T14:00:00+02:00"},
            {"name": "songs/s.csv", "modified_at": "2024-06-25T11:59:59.5Z"},
            {"name": "streams/0.csv", "modified_at": "2024-06-25T12:00:00"},
        )
    )
    assert [file.name for file in listing.files] == ["songs/s.csv", "streams/0.csv", "streams/a.csv"]
    assert {file.modified_at for file in listing.files[1:]} == {datetime(2024, 6, 25, 12, tzinfo=UTC)}
    assert all(file.stat for file in listing.files)


def test_the_time_of_a_file_is_the_manifests_not_the_disks(manifest: Manifest) -> None:
    file = read_manifest(manifest({"modified_at": "2020-01-01T00:00:00Z"})).files[0]
    assert file.modified_at == datetime(2020, 1, 1, tzinfo=UTC)


def test_files_that_are_gone_or_changed_are_told_apart(manifest: Manifest) -> None:
    entries = [{"name": f"streams/{number}.csv"} for number in range(6)]
    for same_folder in (entries[:3], entries):
        listing = read_manifest(manifest(*same_folder[2:], {**entries[0], "gone": True}, {**entries[1], "size": 2}))
        Path(listing.files[0].uri).unlink()
        assert [file.name for file in listing.changed] == ["streams/1.csv"]


def test_a_missing_file_is_named_however_many_there_are(manifest: Manifest) -> None:
    for count in (1, 7):
        entries = [{"name": f"streams/{count}-{number}.csv"} for number in range(count)]
        listing = read_manifest(manifest(*entries, {"name": "streams/gone.csv", "gone": True}))
        assert [file.name for file in listing.missing] == ["streams/gone.csv"]
        assert len(listing.files) == count


def test_an_empty_manifest_is_no_mistake(manifest: Manifest) -> None:
    assert read_manifest(manifest()).files == ()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dataset": "albums"}, r"\$\.files\[0\]\.dataset: 'albums' is not one of"),
        ({"name": "listens/a.csv", "dataset": "streams"}, r"\$\.files\[0\]\.name: "),
        ({"name": "streams/../../a.csv"}, r"\$\.files\[0\]\.name: "),
        ({"size": -1}, r"\$\.files\[0\]\.size: -1 is less than the minimum"),
        ({"size": "1"}, r"\$\.files\[0\]\.size: '1' is not of type 'integer'"),
        ({"etag": 5}, r"\$\.files\[0\]\.etag: "),
        ({"modified_at": "yesterday"}, "modified_at"),
        ({"dataset": "songs"}, r"streams/a\.csv: is below streams/, but its dataset is songs"),
        ({"path": "gs://bucket/a.csv"}, "only local paths and s3://"),
        ({"path": "/somewhere/a.txt"}, r"the name must end in \.csv"),
        ({"name": "streams/.a.csv"}, "not be hidden"),
    ],
)
def test_an_entry_that_is_wrong_is_named(manifest: Manifest, entry: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_manifest(manifest(entry))


def test_a_file_that_is_named_twice_is_refused(manifest: Manifest) -> None:
    with pytest.raises(UsageError, match=r"names a file twice: streams/a\.csv"):
        read_manifest(manifest({}, {}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b"[]", r"\$: \[\] is not of type 'object'"),
        (b'{"schema_version": 1, "run_id": "r"}', r"\$: 'files' is a required property"),
        (b'{"schema_version": 2, "run_id": "r", "files": []}', r"\$\.schema_version: 1 was expected"),
        (b'{"schema_version": 1, "run_id": "", "files": []}', r"\$\.run_id"),
    ],
)
def test_a_text_that_is_no_manifest_is_refused(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "m.json").write_bytes(text)
    with pytest.raises(UsageError, match=message):
        read_manifest(str(tmp_path / "m.json"))


def test_a_manifest_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_manifest(str(tmp_path / "m.json"))


def test_links_out_of_the_input_and_pipes_are_ignored_by_name(tmp_path: Path) -> None:
    put(tmp_path / "raw" / "streams" / "a.csv")
    put(tmp_path / "raw" / "more" / "b.csv")
    put(tmp_path / "secret" / "c.csv")
    streams = tmp_path / "raw" / "streams"
    (streams / "in").symlink_to("../more")
    (streams / "out").symlink_to("../../secret")
    (streams / "file.csv").symlink_to("../../secret/c.csv")
    (streams / "nothing.csv").symlink_to("nowhere")
    (streams / "loop").symlink_to(".")
    os.mkfifo(streams / "pipe.csv")
    (tmp_path / "raw" / "songs").symlink_to("../secret")
    listing = list_input(str(tmp_path / "raw"))
    assert sorted(file.name for file in listing.files) == ["streams/a.csv", "streams/in/b.csv"]
    below = ("file.csv", "loop", "nothing.csv", "out", "pipe.csv")
    assert listing.ignored == ("songs", *(f"streams/{name}" for name in below))
