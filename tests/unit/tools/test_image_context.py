"""What goes into an image is the same bytes each time."""

import hashlib
import io
import os
import tarfile
from pathlib import Path

from tools.image_context import add_bytes, add_file, add_tree, certificates_in, digest_of

CERTIFICATE = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


def context_of(folder: Path) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w|") as context:
        add_tree(context, folder, "tree", ["left-out"])
        add_bytes(context, b"text", "note")
        add_file(context, folder / "b.sh", "script")
    return stream.getvalue()


def tree(folder: Path, names: tuple[str, ...], time: int) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name, "utf-8")
        os.utime(folder / name, (time, time))
    (folder / "b.sh").chmod(0o700)
    return folder


def test_a_context_depends_on_contents_only(tmp_path: Path) -> None:
    names = ("b.sh", "a/c.py", "a/b.py", "left-out/x")
    one = context_of(tree(tmp_path / "one", names, 1))
    two = context_of(tree(tmp_path / "two", names[::-1], 2))
    assert hashlib.sha256(one).digest() == hashlib.sha256(two).digest()
    with tarfile.open(fileobj=io.BytesIO(one)) as context:
        modes = {entry.name: entry.mode for entry in context if entry.isfile()}
        assert all((entry.uid, entry.gid) == (0, 0) for entry in context)
    assert modes == {"tree/a/b.py": 0o644, "tree/a/c.py": 0o644, "tree/b.sh": 0o755, "note": 0o644, "script": 0o755}


def test_a_bundle_is_split_into_certificates() -> None:
    assert certificates_in(b"# ours\n" + CERTIFICATE + b"\nother text\n" + CERTIFICATE) == [CERTIFICATE, CERTIFICATE]
    assert certificates_in(b"no certificate") == []


def test_a_digest_tells_names_and_contents_apart() -> None:
    digests = {digest_of(contents) for contents in ({"a": b"bc"}, {"ab": b"c"}, {"a": b"b", "c": b""})}
    assert len(digests) == 3
    assert digest_of({"a": b"1", "b": b"2"}) == digest_of({"b": b"2", "a": b"1"})
