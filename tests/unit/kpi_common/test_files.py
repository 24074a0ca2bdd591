import fcntl
import hashlib
import os
import resource
import stat as stat_module
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kpi_common import local_files
from kpi_common.files import LocalStorage, etag_of_content, is_s3, join, normalise, storage_for
from kpi_common.s3_files import S3Storage
from spark_app.errors import StorageError, UsageError

DISK = LocalStorage()


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("s3://bucket/a/", "s3://bucket/a"),
        ("s3a://bucket/a", "s3a://bucket/a"),
        ("/data//lake/", "/data/lake"),
        ("file:///data/lake", "/data/lake"),
        ("file:/data/a%20b", "/data/a b"),
        ("/data/a=b %20 é", "/data/a=b %20 é"),
    ],
)
def test_uris_get_one_form(uri: str, expected: str) -> None:
    assert normalise(uri) == expected


def test_a_relative_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert normalise("lake") == str(tmp_path / "lake")


def test_other_stores_are_refused() -> None:
    with pytest.raises(UsageError, match="only local paths and s3://"):
        normalise("gs://bucket/lake")


def test_the_scheme_decides_where_a_file_is() -> None:
    assert [is_s3(uri) for uri in ("s3://b/k", "s3a://b/k", "s3n://b/k", "/s3/x", "file:///s3")] == [True] * 3 + [
        False
    ] * 2
    assert isinstance(storage_for("s3://b/k"), S3Storage)
    assert isinstance(storage_for("/data"), LocalStorage)


def test_segments_are_joined_by_one_slash() -> None:
    assert join("s3://bucket/lake/", "/kpis/", "hourly") == "s3://bucket/lake/kpis/hourly"
    assert join("/lake", "ops/lake.lock") == "/lake/ops/lake.lock"


def names(folder: Path) -> set[str]:
    return {stored.relative for stored in DISK.list_files(str(folder))}


@pytest.mark.timeout(20)
def test_only_files_are_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "broken.csv").symlink_to(tmp_path / "nowhere")
    (tmp_path / "itself.csv").symlink_to(tmp_path / "itself.csv")
    (tmp_path / "up").symlink_to(tmp_path)
    (tmp_path / "real").write_bytes(b"x")
    (tmp_path / "link.csv").symlink_to(tmp_path / "real")
    assert names(tmp_path) == {"real", "link.csv"}
    assert DISK.find(str(tmp_path / "pipe.csv")) is None


OUT, CIRCLE = "a link that leads out of the input", "a link in a circle, or to a folder that is listed by its own name"
NO_FILE, NOTHING = "no file", "no file behind the link"


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """An input with one file in `streams/`, another in `more/`, and a third outside."""
    for name in ("raw/streams/a.csv", "raw/more/deep/b.csv", "outside/secret.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path / "raw"


def listed(inputs: Path) -> dict[str, str | None]:
    """What is listed of `streams/`, with what stands against it."""
    found = list(DISK.list_files(str(inputs / "streams"), within=str(inputs)))
    assert len({stored.relative for stored in found}) == len(found)
    return {stored.relative: stored.problem for stored in found}


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("links", "expected"),
    [
        ({"linked": "../more"}, {"linked/deep/b.csv": None}),
        ({"linked": "../more/deep", "wider": "../more"}, {"linked/b.csv": None}),
        ({"one": "../more", "two": "../more"}, {"one/deep/b.csv": None, "two": CIRCLE}),
        ({"l.csv": "../more/deep/b.csv"}, {"l.csv": None}),
        ({"loop": "."}, {"loop": CIRCLE}),
        ({"up": ".."}, {"up": CIRCLE}),
        ({"../more/back": "../streams", "linked": "../more"}, {"linked/deep/b.csv": None, "linked/back": CIRCLE}),
        ({"out": "../../outside", "f.csv": "../../outside/secret.csv"}, {"out": OUT, "f.csv": OUT}),
        ({"root": "/", "top": "../.."}, {"root": OUT, "top": OUT}),
        ({"../more/deep/out.csv": "/etc/passwd", "l": "../more"}, {"l/deep/b.csv": None, "l/deep/out.csv": OUT}),
        ({"dangling.csv": "nowhere", "itself.csv": "itself.csv"}, {"dangling.csv": NOTHING, "itself.csv": NOTHING}),
        ({"device.csv": "/dev/zero"}, {"device.csv": OUT}),
    ],
)
def test_links_are_followed_in_the_input_only(inputs: Path, links: dict[str, str], expected: dict[str, str]) -> None:
    for name, target in links.items():
        (inputs / "streams" / name).symlink_to(target)
    assert listed(inputs) == {"a.csv": None, **expected}


@pytest.mark.timeout(20)
def test_what_is_no_file_is_named(inputs: Path) -> None:
    os.mkfifo(inputs / "streams" / "pipe.csv")
    (inputs / "streams" / "to-pipe.csv").symlink_to("pipe.csv")
    assert listed(inputs) == {"a.csv": None, "pipe.csv": NO_FILE, "to-pipe.csv": NOTHING}


def test_a_linked_input_is_the_input_and_a_linked_folder_of_it_is_not(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(inputs)
    assert listed(tmp_path / "linked") == {"a.csv": None}
    (inputs / "streams").rename(tmp_path / "elsewhere")
    (inputs / "streams").symlink_to(tmp_path / "elsewhere")
    assert listed(inputs) == {"": OUT}


def test_a_folder_that_can_not_be_looked_into_ends_no_listing(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may look into all: so the system's refusals are played."""
    (inputs / "streams" / "closed").mkdir()
    (inputs / "streams" / "b.csv").write_text("x")
    stat, access = Path.stat, os.access

    def refused(self: Path, **options: bool) -> os.stat_result:
        if self.name == "b.csv":
            raise PermissionError(13, "Permission denied", str(self))
        return stat(self, **options)

    monkeypatch.setattr(Path, "stat", refused)
    monkeypatch.setattr(os, "access", lambda path, mode: "closed" not in str(path) and access(path, mode))
    reason = f"{inputs}/streams/b.csv: can't be read: Permission denied"
    assert listed(inputs) == {"a.csv": None, "b.csv": reason, "closed": "can't be read"}


def test_what_is_written_is_read_and_listed(tmp_path: Path) -> None:
    DISK.write(str(tmp_path / "a" / "b" / "c d.json"), b"1")
    DISK.write(str(tmp_path / "e.json"), b"22")
    found = {stored.relative: stored for stored in DISK.list_files(str(tmp_path))}
    assert {name: stored.size for name, stored in found.items()} == {"a/b/c d.json": 1, "e.json": 2}
    assert DISK.read(found["a/b/c d.json"].uri) == b"1"
    with DISK.open(found["e.json"].uri) as stream:
        assert stream.read() == b"22"


def test_what_is_not_there_is_none_and_not_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for uri in (str(tmp_path / "no"), str(tmp_path / "file" / "below")):
        assert DISK.read(uri) is None
        assert DISK.find(uri) is None
        assert DISK.read_tagged(uri) is None
        assert list(DISK.list_files(uri)) == []


def test_a_file_that_was_touched_has_another_stat(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"1")
    os.utime(path, (1, 1))
    before = DISK.find(str(path))
    os.utime(path, (1, 1))  # same time and size, but the inode changed
    after = DISK.find(str(path))
    assert before is not None
    assert after is not None
    assert before.stat != after.stat
    assert after == DISK.find(str(path))


def test_writing_leaves_nothing_beside_the_file(tmp_path: Path) -> None:
    DISK.write(str(tmp_path / "a"), b"1")
    DISK.write(str(tmp_path / "a"), b"2")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, rename = os.fsync, Path.replace

    def synced(handle: int) -> None:
        kind = "folder" if stat_module.S_ISDIR(os.fstat(handle).st_mode) else f"{os.fstat(handle).st_size} bytes"
        done.append(kind)
        fsync(handle)

    def renamed(self: Path, target: Path) -> Path:
        done.append("renamed")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    DISK.write(str(tmp_path / "a"), b"123")
    assert done == ["3 bytes", "renamed", "folder"]


def test_a_full_disk_leaves_the_file_before_and_nothing_beside_it(tmp_path: Path) -> None:
    """The system's limit of a file's size refuses the write in the middle, as a full disk does."""
    DISK.write(str(tmp_path / "a"), b"before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(StorageError, match=f"^{tmp_path}/a: can't be written: File too large$"):
            DISK.write(str(tmp_path / "a"), b"x" * 200_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert DISK.read(str(tmp_path / "a")) == b"before"


def test_a_place_that_can_not_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="can't be written"):
        DISK.write(str(tmp_path / "file" / "below"), b"1")
    with pytest.raises(StorageError, match="can't be written"):
        DISK.write_if(str(tmp_path / "file" / "below"), b"1", None)


def test_a_write_without_tag_only_creates(tmp_path: Path) -> None:
    uri = str(tmp_path / "new" / "a")
    assert (
        DISK.write_if(uri, b"1", None) == etag_of_content(b"1") == hashlib.md5(b"1", usedforsecurity=False).hexdigest()
    )
    assert DISK.write_if(uri, b"2", None) is None
    assert DISK.read(uri) == b"1"


def test_what_a_killed_write_left_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it was, a run that was killed while it marked a new lake left a file for which the lake was refused."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            DISK.write(str(tmp_path / "lake.json"), b"1")
    assert len(list(tmp_path.iterdir())) == 1
    assert list(DISK.list_files(str(tmp_path))) == []
    DISK.write(str(tmp_path / "lake.json"), b"1")
    assert [stored.relative for stored in DISK.list_files(str(tmp_path))] == ["lake.json"]


def test_a_write_with_a_tag_only_replaces_what_it_saw(tmp_path: Path) -> None:
    uri = str(tmp_path / "a")
    assert DISK.write_if(uri, b"1", etag_of_content(b"0")) is None
    assert DISK.read(uri) is None
    first = DISK.write_if(uri, b"1", None)
    second = DISK.write_if(uri, b"2", first)
    assert second is not None
    assert DISK.write_if(uri, b"3", first) is None
    assert DISK.read_tagged(uri) == (b"2", second)


def test_a_file_that_is_rewritten_keeps_its_times_and_gets_no_neighbour(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"1")
    os.utime(path, ns=(1, 2_000_000_003))
    assert DISK.rewrite_if(str(path), b"2", etag_of_content(b"0")) is None
    assert DISK.rewrite_if(str(tmp_path / "none"), b"2", etag_of_content(b"0")) is None
    assert DISK.rewrite_if(str(path), b"2", etag_of_content(b"1")) == etag_of_content(b"2")
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (b"2", 2_000_000_003)
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_goes_with_the_next_write(tmp_path: Path) -> None:
    left, of_another = tmp_path / ".a.zfh0_3wq.partial", tmp_path / ".a.csv.zfh0_3wq.partial"
    for write in (
        lambda: DISK.write_if(str(tmp_path / "a"), b"1", None),
        lambda: DISK.rewrite_if(str(tmp_path / "a"), b"2", etag_of_content(b"1")),
    ):
        left.touch()
        of_another.touch()
        assert write() is not None
        assert (left.exists(), of_another.exists()) == (False, True)


def test_a_file_is_deleted_only_if_it_is_the_one_that_was_seen(tmp_path: Path) -> None:
    uri = str(tmp_path / "a")
    DISK.write(uri, b"1")
    assert not DISK.delete_if(uri, etag_of_content(b"2"))
    assert DISK.read(uri) == b"1"
    assert DISK.delete_if(uri, etag_of_content(b"1"))
    assert DISK.read(uri) is None
    assert DISK.delete_if(uri, etag_of_content(b"1"))


def test_of_many_who_create_at_once_one_wins(tmp_path: Path) -> None:
    barrier = threading.Barrier(8)

    def create(number: int) -> str | None:
        barrier.wait()
        return DISK.write_if(str(tmp_path / "a"), b"%d" % number, None)

    with ThreadPoolExecutor(8) as pool:
        tags = [tag for tag in pool.map(create, range(8)) if tag is not None]
    assert tags == [etag_of_content((tmp_path / "a").read_bytes())]


def test_a_folder_goes_with_all_that_is_in_it(tmp_path: Path) -> None:
    DISK.write(str(tmp_path / "x" / "y" / "a"), b"1")
    DISK.delete_folder(str(tmp_path / "x"))
    DISK.delete_folder(str(tmp_path / "x"))
    assert list(tmp_path.iterdir()) == []


def test_a_file_whose_writer_was_stopped_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_files, "_LONGEST_WAIT_S", 0.05)
    with (tmp_path / ".a.json.guard").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        with pytest.raises(StorageError, match=r"a\.json: another process has been writing it .*`fuser .*\.guard`"):
            LocalStorage().write_if(str(tmp_path / "a.json"), b"{}", None)
    assert LocalStorage().write_if(str(tmp_path / "a.json"), b"{}", None)
