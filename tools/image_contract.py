"""Hold an image against docker/contract.toml. What can be seen only inside is asked by a script run in the image."""

from __future__ import annotations

import fnmatch
import json
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from tools.docker_engine import docker, require_image
from tools.toolchain import ROOT

CONTRACT = ROOT / "docker" / "contract.toml"
PROBE = Path(__file__).with_name("image_probe.py")
# Names of variables and of layers' commands that hint at a secret.
SECRET_NAMES = ("*PASSWORD*", "*SECRET*", "*TOKEN*", "AWS_ACCESS_KEY*", "*INDEX_URL*", "*_PROXY")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Config(_Part):
    """How a container is started."""

    user: str
    working_directory: str
    entrypoint: list[str]


class Labels(_Part):
    """Labels that must say something."""

    required: list[str]


class Files(_Part):
    """Paths, and what must hold for them."""

    executable: list[str]
    readable: list[str]
    as_in_base: list[str]
    writable: list[str]


class Commands(_Part):
    """Commands that must, or must not, be found."""

    on_path: list[str]
    not_added: list[str]


class Folders(_Part):
    """Folders in which our layers leave nothing."""

    empty: list[str]


class Python(_Part):
    """The Python of the application."""

    version: str
    not_installed: list[str]


class Java(_Part):
    """The Java that Spark runs on."""

    version: str


class Size(_Part):
    """Limits, in MB."""

    our_layers_mb: float


class Contract(_Part):
    """All of `docker/contract.toml`."""

    config: Config
    environment: dict[str, str]
    labels: Labels
    architectures: dict[str, str]
    files: Files
    commands: Commands
    folders: Folders
    python: Python
    java: Java
    size: Size

    @classmethod
    def load(cls, path: Path = CONTRACT) -> Contract:
        """Read the contract."""
        return cls.model_validate(tomllib.loads(path.read_text("utf-8")))


@dataclass(frozen=True)
class Result:
    """One thing that was looked at."""

    check: str
    passed: bool
    detail: str = ""


def check_image(name: str, base: str, contract: Contract) -> list[Result]:
    """Return how an image holds against the contract, point by point."""
    image, base_image = require_image(name), require_image(base)
    inside, inside_base = _probe(name, contract), _base_facts(base, contract)
    return [
        *_check_config(image, base_image, contract),
        *_check_labels(image, contract),
        *_check_layers(image, base_image, name, base, contract),
        *_check_files(inside, inside_base, contract),
        *_check_folders(name, base, contract),
        *_check_modes(name, base),
        *_check_software(inside, inside_base, image["Config"].get("Labels") or {}, contract),
    ]


def size_of_our_layers(name: str, base: str) -> int:
    """Return the bytes that an image adds to its base."""
    return int(require_image(name)["Size"]) - int(require_image(base)["Size"])


# --- what the engine tells ---


def _check_config(image: dict[str, Any], base: dict[str, Any], contract: Contract) -> Iterator[Result]:
    config = image["Config"]
    environment = _environment(image)
    yield _same("user", config["User"], contract.config.user)
    yield _same("working directory", config["WorkingDir"], contract.config.working_directory)
    yield _same("entry point", config["Entrypoint"], contract.config.entrypoint)
    yield _same("entry point as in the base", config["Entrypoint"], base["Config"]["Entrypoint"])
    for name, value in contract.environment.items():
        found = environment.get(name, "")
        yield Result(f"environment: {name}", found == value or (value == "*" and bool(found)), f"is {found!r}")
    for name, value in _environment(base).items():
        if name not in contract.environment:
            yield _same(f"environment as in the base: {name}", environment.get(name), value)


def _check_labels(image: dict[str, Any], contract: Contract) -> Iterator[Result]:
    labels = image["Config"].get("Labels") or {}
    for name in contract.labels.required:
        yield Result(f"label: {name}", bool(labels.get(name)), "is missing")
    architecture = contract.architectures.get(image["Architecture"])
    yield _same("architecture label", labels.get("music-streaming-kpis.emr-architecture"), architecture)


def _check_layers(
    image: dict[str, Any], base: dict[str, Any], name: str, base_name: str, contract: Contract
) -> Iterator[Result]:
    ours, theirs = image["RootFS"]["Layers"], base["RootFS"]["Layers"]
    yield Result("stands on the layers of the base", ours[: len(theirs)] == theirs, "other layers: build it again")
    size = size_of_our_layers(name, base_name) / 1e6
    limit = contract.size.our_layers_mb
    yield Result(f"our layers: {size:.1f} MB, at most {limit:g} MB", 0 < size < limit, "too large")
    added = set(_environment(image)) - set(_environment(base))
    secret = sorted(variable for variable in added if _hints_at_a_secret(variable))
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", name).stdout
    words = {word.partition("=")[0] for word in history.split() if "=" in word}
    secret += sorted(word for word in words if _hints_at_a_secret(word))
    yield Result("no secret in the environment or the history", not secret, ", ".join(secret))


def _environment(image: dict[str, Any]) -> dict[str, str]:
    return dict(entry.split("=", 1) for entry in image["Config"].get("Env") or [])


def _hints_at_a_secret(name: str) -> bool:
    return any(fnmatch.fnmatch(name.upper(), pattern) for pattern in SECRET_NAMES)


# --- what is seen inside ---


def _probe(name: str, contract: Contract) -> dict[str, Any]:
    arguments = ["--interactive", "--read-only", "--entrypoint", contract.environment["PYSPARK_PYTHON"]]
    question: dict[str, Any] = {"files": contract.files.model_dump(), "commands": contract.commands.model_dump()}
    question |= {"not_installed": contract.python.not_installed}
    probe = PROBE.read_text("utf-8")
    command = ["run", "--rm", "--network", "none", *arguments, name, "-c", probe, json.dumps(question)]
    facts: dict[str, Any] = json.loads(docker(*command).stdout)
    return facts


def _base_facts(base: str, contract: Contract) -> dict[str, str]:
    """Ask the base, whose Python may be another or none, by its shell: hashes, and commands that it has."""
    script = 'sha256sum "$1" | cut -d" " -f1; shift; for c in "$@"; do command -v "$c" >/dev/null && echo "$c"; done; :'
    facts: dict[str, str] = {}
    for path in contract.files.as_in_base:
        command = ["run", "--rm", "--network", "none", "--entrypoint", "/bin/sh", base, "-c", script, "sh", path]
        first, *commands = docker(*command, *contract.commands.not_added).stdout.split()
        facts |= {path: first} | dict.fromkeys(commands, "command")
    return facts


def _check_files(inside: dict[str, Any], base: dict[str, str], contract: Contract) -> Iterator[Result]:
    yield from _each("executable", contract.files.executable, inside["executable"])
    yield from _each("there", contract.files.readable, inside["readable"])
    for path in contract.files.as_in_base:
        yield _same(f"as in the base: {path}", inside["sha256"].get(path), base[path])
    yield _nothing("nothing of ours is writable for the user", inside["writable"])
    yield Result("JAVA_HOME has a java", inside["java_home"], "no bin/java there")


def _check_folders(name: str, base: str, contract: Contract) -> Iterator[Result]:
    left = _added(name, base, *contract.folders.empty, "-mindepth", "1")
    for folder in contract.folders.empty:
        yield _nothing(f"nothing left in {folder}", sorted(path for path in left if path.startswith(f"{folder}/")))


def _check_modes(name: str, base: str) -> Iterator[Result]:
    suid = _added(name, base, "/", "-xdev", "-type", "f", "-perm", "/6000")
    yield _nothing("no file with a set-user-ID or set-group-ID bit added", sorted(suid))
    writable = _added(name, base, "/", "-xdev", "!", "-type", "l", "-perm", "-0002", "!", "-perm", "-1000")
    yield _nothing("nothing added that everybody may write", sorted(writable)[:10])


def _added(name: str, base: str, *look: str) -> set[str]:
    """Return what `find`, as root, who sees all, finds in the image and not in the base."""

    def found(image: str) -> set[str]:
        command = ["run", "--rm", "--network", "none", "--user", "0:0", "--entrypoint", "find", image, *look]
        return set(docker(*command, check=False).stdout.splitlines())

    return found(name) - found(base)


def _check_software(
    inside: dict[str, Any], base: dict[str, str], labels: dict[str, str], contract: Contract
) -> Iterator[Result]:
    yield _same("runs as", inside["user"], contract.config.user)
    yield from _each("on the path", contract.commands.on_path, inside["on_path"])
    yield _nothing("no compiler or installer added", sorted(set(inside["not_added"]) - base.keys()))
    yield _same("version of Python", inside["python"], contract.python.version)
    yield _nothing("of Spark and Delta only the base's own", inside["installed"])
    yield _same("version of Java", inside["java"], contract.java.version)
    yield _same("version of the application", inside["version"], labels.get("org.opencontainers.image.version"))


def _same(check: str, found: object, expected: object) -> Result:
    return Result(check, found == expected, f"is {found!r}, expected {expected!r}")


def _nothing(check: str, found: Iterable[str]) -> Result:
    return Result(check, not list(found), ", ".join(found))


def _each(check: str, expected: Iterable[str], found: Iterable[str]) -> Iterator[Result]:
    there = set(found)
    for path in expected:
        yield Result(f"{check}: {path}", path in there, "is not")
