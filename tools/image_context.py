"""What goes into an image: our wheel, the locked packages, and a build context that is the same bytes each time."""

import hashlib
import io
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.toolchain import BUILD, LOCKS, ROOT, UV, VENV_PYTHON, get_uv, network_environment, run

IMAGE_FOLDER = BUILD / "image"
WHEELS = IMAGE_FOLDER / "dist"
SITE_PACKAGES = "/opt/music-streaming-kpis/lib/python3.11/site-packages"
# The time of all files in the image, unless SOURCE_DATE_EPOCH says another: that of the files in our wheel.
FILE_TIME = 1580601600
# Wheels that run on Amazon Linux 2023 and on Debian 12.
UV_PLATFORMS = {"linux/amd64": "x86_64-manylinux_2_28", "linux/arm64": "aarch64-manylinux_2_28"}


@dataclass(frozen=True)
class Wheel:
    """Our wheel, as it is installed in the image and wherever else."""

    path: Path
    version: str
    sha256: str


def build_wheel() -> Wheel:
    """Build the wheel; the same sources give the same bytes."""
    shutil.rmtree(WHEELS, ignore_errors=True)
    env = os.environ | {"SOURCE_DATE_EPOCH": str(FILE_TIME)}
    command: list[str | Path] = [VENV_PYTHON, "-m", "hatchling", "build", "--target", "wheel", "--directory", WHEELS]
    quiet = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if quiet.returncode != 0:
        raise RuntimeError(f"hatchling could not build the wheel:\n{quiet.stderr}")
    (path,) = WHEELS.glob("*.whl")
    return Wheel(path, path.name.split("-")[1], hashlib.sha256(path.read_bytes()).hexdigest())


def install_packages(wheel: Wheel, platform: str) -> tuple[Path, Path]:
    """Install the locked packages and our wheel for a platform, each in a folder of its own, hashes checked.

    Nothing of the platform's own is run, so that an image for arm64 can be made on x86_64.
    """
    dependencies, application = IMAGE_FOLDER / "dependencies", IMAGE_FOLDER / "application"
    own = IMAGE_FOLDER / "application.txt"
    own.write_text(f"music-streaming-kpis=={wheel.version} --hash=sha256:{wheel.sha256}\n", "ascii")
    _install(dependencies, platform, ["--requirements", LOCKS / "app.txt"])
    _install(application, platform, ["--no-index", "--find-links", WHEELS, "--no-deps", "--requirements", own])
    return dependencies, application


def _install(folder: Path, platform: str, what: Sequence[str | Path]) -> None:
    env = network_environment(os.environ) | {"UV_LINK_MODE": "copy"}
    get_uv(env)
    shutil.rmtree(folder, ignore_errors=True)
    command: list[str | Path] = [UV, "pip", "install", "--quiet", "--require-hashes", "--only-binary", ":all:"]
    command += ["--python", VENV_PYTHON, "--python-version", "3.11", "--python-platform", UV_PLATFORMS[platform]]
    run([*command, "--target", folder, *what], env, "uv could not install the packages of the image")
    shutil.rmtree(folder / "bin", ignore_errors=True)  # commands, which would name this machine's Python
    (folder / ".lock").unlink(missing_ok=True)
    # Compiled here, as the image can't be written at run time; checked by nothing, so that time stamps don't matter.
    compile_all: list[str | Path] = [VENV_PYTHON, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]
    compile_all += ["-s", folder, "-p", SITE_PACKAGES, folder]
    run(compile_all, os.environ, "the packages of the image could not be compiled")


# --- contexts ---


def add_tree(context: tarfile.TarFile, folder: Path, name: str, leave_out: Iterable[str] = ()) -> None:
    """Put all files of a folder into a context under `name`, links followed, in a fixed order."""
    left_out = set(leave_out)
    context.addfile(_entry(name, 0o755, tarfile.DIRTYPE))
    for path in sorted(folder.iterdir()):
        if path.name in left_out:
            continue
        if path.is_dir():
            add_tree(context, path, f"{name}/{path.name}", left_out)
        else:
            add_file(context, path, f"{name}/{path.name}")


def add_file(context: tarfile.TarFile, path: Path, name: str) -> None:
    """Put one file into a context."""
    entry = _entry(name, 0o755 if os.access(path, os.X_OK) else 0o644, tarfile.REGTYPE)
    entry.size = path.stat().st_size
    with path.open("rb") as content:
        context.addfile(entry, content)


def add_bytes(context: tarfile.TarFile, data: bytes, name: str) -> None:
    """Put a file with this content into a context."""
    entry = _entry(name, 0o644, tarfile.REGTYPE)
    entry.size = len(data)
    context.addfile(entry, io.BytesIO(data))


def _entry(name: str, mode: int, kind: bytes) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.mode, entry.type, entry.mtime = mode, kind, int(os.environ.get("SOURCE_DATE_EPOCH", FILE_TIME))
    return entry


def digest_of(contents: Mapping[str, bytes]) -> str:
    """Return one hash of named contents, whatever their order."""
    digest = hashlib.sha256()
    for name, content in sorted(contents.items()):
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def certificates_in(bundle: bytes) -> list[bytes]:
    """Return each certificate of a PEM bundle: the tools that keep a system's store want one a file."""
    return re.findall(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\n?", bundle, re.DOTALL)
