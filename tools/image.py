"""`./build.sh image`: build the image of the application, check it, test it.

Without --local the base is that of EMR Serverless (docker/base.toml). With only --check or --test nothing is built:
they are about the image that was built last.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from tools.docker_engine import (
    DockerError,
    build,
    docker,
    engine_platform,
    ensure_engine,
    inspect_image,
    require_image,
)
from tools.image_base import local_base
from tools.image_context import (
    IMAGE_FOLDER,
    UV_PLATFORMS,
    Wheel,
    add_bytes,
    add_file,
    add_tree,
    build_wheel,
    certificates_in,
    install_packages,
)
from tools.toolchain import ROOT, VENV, ToolchainError, say

NAME = "music-streaming-kpis"
LATEST = IMAGE_FOLDER / "latest.json"
SBOM_SECONDS = 600


@dataclass(frozen=True)
class Built:
    """An image that was built here: its name and id, what it stands on, and its bill of materials."""

    name: str
    image_id: str
    base: str
    platform: str
    sbom: str


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="./build.sh image", description=__doc__)
    base = parser.add_mutually_exclusive_group()
    base.add_argument("--local", action="store_true", help="on the look-alike of the EMR base, made of packages")
    base.add_argument("--base", metavar="IMAGE", help="on another base than that of docker/base.toml")
    parser.add_argument("--platform", choices=sorted(UV_PLATFORMS), help="default: that of the engine")
    parser.add_argument("--extra-ca", metavar="FILE", type=Path, help="PEM certificates that the image is to trust too")
    parser.add_argument("--check", action="store_true", help="hold the image against docker/contract.toml")
    parser.add_argument("--test", action="store_true", help="run the tests of the image (tests/image)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Do what the options say; return the exit code."""
    options = parse(arguments)
    try:
        ensure_engine()
        named = options.local or options.base or options.platform or options.extra_ca
        built = make(options) if named or not (options.check or options.test) else latest()
        if options.check and not show_check(built):
            return 1
        return run_tests() if options.test else 0
    except (DockerError, ToolchainError, OSError) as error:
        say(f"error: {error}")
        return 1


def latest() -> Built:
    """Return the image that was built last.

    Raises:
        DockerError: none was, or the engine no longer has it.
    """
    if not LATEST.is_file():
        raise DockerError("no image was built yet: ./build.sh image, or ./build.sh image --local")
    built = Built(**json.loads(LATEST.read_text("utf-8")))
    require_image(built.name)
    return built


# --- building ---


def make(options: argparse.Namespace) -> Built:
    """Build the image and what lies beside it."""
    platform = options.platform or engine_platform()
    if platform not in UV_PLATFORMS:
        raise DockerError(f"there is no image for {platform}: name one with --platform ({', '.join(UV_PLATFORMS)})")
    base = local_base(platform) if options.local else pulled(options.base or emr_base(), platform)
    kind = "local" if options.local else "emr"
    name = f"{NAME}:{kind}" + ("" if platform == engine_platform() else "-" + platform.partition("/")[2])
    certificates = certificates_in(options.extra_ca.read_bytes()) if options.extra_ca else []
    if options.extra_ca and not certificates:
        raise DockerError(f"{options.extra_ca}: no PEM certificate in this file")
    say(f"building {name} …")
    wheel = build_wheel()
    dependencies, application = install_packages(wheel, platform)

    def write_context(context: tarfile.TarFile) -> None:
        add_file(context, ROOT / "docker" / "Dockerfile", "Dockerfile")
        for number, certificate in enumerate(certificates):
            add_bytes(context, certificate, f"extra-ca/extra-{number:03}.crt")
        if not certificates:
            add_bytes(context, b"none\n", "extra-ca/README")
        add_tree(context, dependencies, "dependencies")
        add_tree(context, application, "application")

    labels = [
        part
        for key, value in image_labels(wheel, base, kind, platform).items()
        for part in ("--label", f"{key}={value}")
    ]
    build(name, ["--platform", platform, "--build-arg", f"BASE={base}", *labels], write_context)
    image_id = str(require_image(name)["Id"])
    built = Built(name, image_id, base, platform, str(write_sbom(name)))
    LATEST.write_text(json.dumps(asdict(built), indent=1), "utf-8")
    show(built, wheel)
    return built


def emr_base() -> str:
    """Return the base for EMR Serverless, pinned where docker/base.toml has a digest."""
    base = tomllib.loads((ROOT / "docker" / "base.toml").read_text("utf-8"))
    image, digest = base["image"], base["digest"]
    if digest:
        return f"{image.rpartition(':')[0]}@{digest}"
    say(f"warning: {image} is not pinned (docker/base.toml)")
    return str(image)


def pulled(base: str, platform: str) -> str:
    """Get a base, unless it is there for this platform; what the image adds is later held against it.

    Raises:
        DockerError: no registry has it, or can be reached.
    """
    facts = inspect_image(base)
    if facts is None or f"{facts['Os']}/{facts['Architecture']}" != platform:
        say(f"pulling {base} …")
        done = docker("pull", "--quiet", "--platform", platform, base, check=False)
        if done.returncode != 0:
            reason = done.stderr.strip()
            raise DockerError(f"can't pull {base}: {reason}\nWithout access to it: ./build.sh image --local")
    return base


def image_labels(wheel: Wheel, base: str, kind: str, platform: str) -> dict[str, str]:
    """Return the labels: those of OCI, and what tells this build from others."""
    from tools.image_contract import Contract

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    revision, committed = revision_and_time()
    architecture = Contract.load().architectures[platform.partition("/")[2]]
    return {
        "org.opencontainers.image.title": project["name"],
        "org.opencontainers.image.description": project["description"],
        "org.opencontainers.image.version": wheel.version,
        "org.opencontainers.image.revision": revision,
        "org.opencontainers.image.created": committed,
        "org.opencontainers.image.licenses": project["license"],
        "org.opencontainers.image.base.name": base,
        "music-streaming-kpis.base": kind,
        "music-streaming-kpis.wheel-sha256": wheel.sha256,
        "music-streaming-kpis.emr-architecture": architecture,
    }


def revision_and_time() -> tuple[str, str]:
    """Return the git commit, with `-dirty` where files differ from it, and its time; not those of the build."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    commit, seconds = (git("log", "-1", "--format=%H %ct").split() or ["unknown", "0"])[:2]
    ours = ("kpi_common", "spark_app", "conf", "docker", "locks/app.txt")
    dirty = "-dirty" if git("status", "--porcelain", "--", *ours) else ""
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH", seconds))
    return commit + dirty, datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def write_sbom(name: str) -> Path:
    """Write the image's bill of materials as CycloneDX: packages of the system, of Python, and jars."""
    path = IMAGE_FOLDER / f"{name.replace(':', '-')}.cdx.json"
    say("writing the bill of materials …")
    env = os.environ | {"SYFT_CHECK_FOR_APP_UPDATE": "false", "SYFT_FILE_METADATA_SELECTION": "none"}
    command = [str(VENV / "bin" / "syft"), "scan", f"docker:{name}", "--quiet", "--output", f"cyclonedx-json={path}"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=SBOM_SECONDS)
    if done.returncode != 0:
        raise DockerError(f"syft could not write the bill of materials:\n{done.stderr.strip()}")
    return path


# --- telling ---


def show(built: Built, wheel: Wheel) -> None:
    """Print what was built."""
    from tools.image_contract import size_of_our_layers

    components = json.loads(Path(built.sbom).read_text("utf-8")).get("components", [])
    facts = {
        "image": f"{built.name} ({built.platform})",
        "id": built.image_id,
        "base": built.base,
        "wheel": f"{wheel.path.name}, sha256 {wheel.sha256}",
        "our layers": f"{size_of_our_layers(built.name, built.base) / 1e6:.1f} MB over the base",
        "bill of materials": f"{Path(built.sbom).relative_to(ROOT)}, {len(components)} components",
    }
    for name, fact in facts.items():
        print(f"{name:<18} {fact}")


def show_check(built: Built) -> bool:
    """Print how the image holds against the contract; tell whether all is well."""
    from tools.image_contract import Contract, check_image

    results = check_image(built.name, built.base, Contract.load())
    for result in results:
        print(f"{'ok' if result.passed else 'FAILED':<7} {result.check}{'' if result.passed else ': ' + result.detail}")
    failed = sum(not result.passed for result in results)
    print(f"image contract of {built.name}: {len(results) - failed} kept, {failed} broken")
    return failed == 0


def run_tests() -> int:
    """Run tests/image with pytest."""
    command = [sys.executable, "-m", "pytest", "-m", "image", "tests/image"]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
