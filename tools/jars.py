"""Get the jars of `docker/jars.txt` from Maven Central and check them against its sha256.

`python -m tools.jars delta s3` puts them into `.build/jars/<purpose>/`.
Only the standard library is imported unless a jar is missing.
"""

import hashlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
JAR_LIST = ROOT / "docker" / "jars.txt"
JAR_FOLDER = ROOT / ".build" / "jars"
DOWNLOAD_TIMEOUT_S = 120


class JarError(Exception):
    """A jar that can't be had, or isn't the one that the list names."""


@dataclass(frozen=True)
class Jar:
    """One line of the list of jars."""

    group: str
    artifact: str
    version: str
    classifier: str
    sha256: str
    purpose: str

    @property
    def file_name(self) -> str:
        """The name that the jar has in a Maven repository."""
        ending = f"-{self.classifier}" if self.classifier else ""
        return f"{self.artifact}-{self.version}{ending}.jar"


def read_jar_list(path: Path = JAR_LIST) -> list[Jar]:
    """Return the jars listed in `path`; `JarError` for a line that can't be read."""
    jars = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            coordinate, sha256, purpose = line.split()
            group, artifact, version, *rest = coordinate.split(":")
        except ValueError:
            raise JarError(f"{path.name}, line {number}: expected 'group:artifact:version sha256 purpose'") from None
        jars.append(Jar(group, artifact, version, "".join(rest), sha256, purpose))
    return jars


def jars_for(purposes: Iterable[str]) -> dict[Jar, Path]:
    """Return each jar of these purposes and where it lies (or will lie)."""
    wanted = set(purposes)
    return {jar: JAR_FOLDER / jar.purpose / jar.file_name for jar in read_jar_list() if jar.purpose in wanted}


def missing_jars(purposes: Iterable[str]) -> dict[Jar, Path]:
    """Return the jars that are not there yet. What is there was checked before it got its name."""
    return {jar: path for jar, path in jars_for(purposes).items() if not is_checked(jar, path)}


def fetch_jars(purposes: Iterable[str]) -> None:
    """Get what is missing of the jars of these purposes, and check it."""
    for jar, path in missing_jars(purposes).items():
        print(f"getting {jar.file_name} (once) …", file=sys.stderr, flush=True)
        get_jar(jar, path, JAR_FOLDER / ".maven")


def is_checked(jar: Jar, path: Path) -> bool:
    """Whether the jar is at `path` and is the one that the list names."""
    stamp = path.with_suffix(".sha256")
    return path.is_file() and stamp.is_file() and stamp.read_text("ascii") == jar.sha256


def get_jar(jar: Jar, path: Path, cache: Path) -> None:
    """Get one jar by way of the Maven folder `cache`; it gets its name only when its sha256 is right."""
    downloaded = _download(jar, cache)
    with downloaded.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != jar.sha256:
        downloaded.unlink()
        raise JarError(f"{jar.file_name} has the sha256 {found}, but {jar.sha256} was expected")
    path.parent.mkdir(parents=True, exist_ok=True)
    downloaded.replace(path)
    path.with_suffix(".sha256").write_text(jar.sha256, "ascii")


def _download(jar: Jar, cache: Path) -> Path:
    from jgo.maven import MavenContext

    try:
        context = MavenContext(repo_cache=cache, timeout=DOWNLOAD_TIMEOUT_S)
        component = context.project(jar.group, jar.artifact).at_version(jar.version)
        return Path(component.artifact(classifier=jar.classifier).resolve())
    except Exception as error:
        raise JarError(f"can't get {jar.file_name} from Maven Central: {error}") from error


def main(purposes: list[str]) -> int:
    """Fetch the jars of the purposes given, or of all."""
    try:
        fetch_jars(purposes or {jar.purpose for jar in read_jar_list()})
    except JarError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
