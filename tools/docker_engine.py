"""Docker's command line, as far as the image needs it; any engine with this command will do."""

import json
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import IO, Any


class DockerError(Exception):
    """Docker can't do what was asked; the message says why."""

    exit_code = 1


def docker(*arguments: str, stdin: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a docker command whose output is wanted.

    Raises:
        DockerError: it failed.
    """
    done = subprocess.run(["docker", *arguments], input=stdin, capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        raise DockerError(f"docker {arguments[0]} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done


def ensure_engine() -> None:
    """Raise DockerError unless an engine answers."""
    if shutil.which("docker") is None:
        raise DockerError(
            "the command 'docker' is not there; on Debian, as root: docker/engine.sh installs and starts it"
        )
    answer = docker("version", "--format", "{{.Server.Version}}", check=False)
    if answer.returncode != 0:
        raise DockerError(f"no Docker engine answers ({answer.stderr.strip()}); on Debian, as root: docker/engine.sh")


def engine_platform() -> str:
    """Return the platform that the engine runs on, such as linux/amd64."""
    return docker("version", "--format", "{{.Server.Os}}/{{.Server.Arch}}").stdout.strip()


def inspect_image(name: str) -> dict[str, Any] | None:
    """Return what the engine knows of an image, or None where it has no such image."""
    done = docker("image", "inspect", name, check=False)
    if done.returncode != 0:
        return None
    facts: dict[str, Any] = json.loads(done.stdout)[0]
    return facts


def require_image(name: str) -> dict[str, Any]:
    """Return what the engine knows of an image.

    Raises:
        DockerError: it has no such image.
    """
    facts = inspect_image(name)
    if facts is None:
        raise DockerError(f"there is no image {name}: build it with ./build.sh image")
    return facts


def labels_of(name: str) -> dict[str, str]:
    """Return an image's labels; none where there is no such image."""
    facts = inspect_image(name)
    return {} if facts is None else dict(facts["Config"].get("Labels") or {})


def build(tag: str, options: Sequence[str], write_context: Callable[[tarfile.TarFile], None]) -> None:
    """Build an image from a context that is streamed to the engine.

    Raises:
        DockerError: with the end of the build's output.
    """
    command = ["docker", "build", "--network", "host", "--force-rm", "--tag", tag, *options, "-"]
    feed(command, lambda stream: _write_tar(stream, write_context))


def feed(command: Sequence[str], write: Callable[[IO[bytes]], None]) -> None:
    """Run a command and write its standard input.

    Raises:
        DockerError: with the end of the command's output.
    """
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # the engine has given up; it says why
            write(process.stdin)
        output = process.communicate()[0].decode("utf-8", errors="replace")
    if process.returncode != 0:
        raise DockerError(f"{' '.join(command[:2])} failed:\n" + "\n".join(output.splitlines()[-25:]))


def _write_tar(stream: IO[bytes], write_context: Callable[[tarfile.TarFile], None]) -> None:
    with tarfile.open(fileobj=stream, mode="w|") as context:
        write_context(context)
