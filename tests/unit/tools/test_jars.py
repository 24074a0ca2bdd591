import hashlib
from pathlib import Path

import pytest

from tools import jars
from tools.jars import Jar, JarError

CONTENT = b"a jar"
JAR = Jar("org.example", "thing", "1.2", "", hashlib.sha256(CONTENT).hexdigest(), "delta")


@pytest.fixture
def maven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Maven folder from which `_download` takes what lies there."""
    downloaded = tmp_path / "maven" / JAR.file_name
    downloaded.parent.mkdir()
    monkeypatch.setattr(jars, "_download", lambda _jar, _cache: downloaded)
    return downloaded


def test_each_jar_of_the_list_can_be_read() -> None:
    assert {jar.purpose for jar in jars.read_jar_list()} == {"delta", "jdbc", "s3"}


def test_a_line_that_is_not_a_jar_is_named(tmp_path: Path) -> None:
    listing = tmp_path / "jars.txt"
    listing.write_text("# comment\n\norg.example:thing:1.2 abc\n", "utf-8")
    with pytest.raises(JarError, match="line 3"):
        jars.read_jar_list(listing)


def test_a_classifier_is_part_of_the_file_name() -> None:
    assert Jar("g", "a", "1", "linux", "", "").file_name == "a-1-linux.jar"


def test_a_jar_with_the_right_sum_gets_its_place(maven: Path, tmp_path: Path) -> None:
    maven.write_bytes(CONTENT)
    path = tmp_path / "delta" / JAR.file_name
    jars.get_jar(JAR, path, tmp_path)
    assert path.read_bytes() == CONTENT
    assert jars.is_checked(JAR, path)


def test_a_jar_with_another_sum_gets_no_place(maven: Path, tmp_path: Path) -> None:
    maven.write_bytes(b"another jar")
    path = tmp_path / "delta" / JAR.file_name
    with pytest.raises(JarError, match="sha256"):
        jars.get_jar(JAR, path, tmp_path)
    assert not path.exists()
    assert not maven.exists()


def test_a_jar_of_an_older_list_is_not_taken_for_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / JAR.file_name
    path.write_bytes(b"another jar")
    path.with_suffix(".sha256").write_text("0" * 64, "ascii")
    assert not jars.is_checked(JAR, path)
