"""The look-alike of the EMR Serverless base (docker/local-base), for machines without access to AWS."""

import os
import platform
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import IO

from tools.docker_engine import DockerError, build, docker, engine_platform, feed, inspect_image, labels_of
from tools.image_context import FILE_TIME, add_file, add_tree, digest_of
from tools.jars import JAR_LIST, jars_for
from tools.spark_submit import spark_home
from tools.toolchain import LOCKS, ROOT, say

FOLDER = ROOT / "docker" / "local-base"
NAME = "music-streaming-kpis-base:local"
DEBIAN = "debian:bookworm-slim"
BOOTSTRAPPED = "music-streaming-kpis-debian:bookworm"
SUITE = "bookworm"
INPUTS_LABEL = "music-streaming-kpis.inputs"
SPARK_FOLDERS = ("bin", "sbin", "jars", "licenses")
# EMR's names of the jars carry no version.
DELTA_NAMES = {"delta-spark_2.12": "delta-spark.jar", "delta-storage": "delta-storage.jar"}


def local_base(wanted: str) -> str:
    """Return the name of the look-alike for a platform, built if its inputs are not those of the one that is there."""
    if wanted != engine_platform():
        raise DockerError(
            f"the look-alike can only be built for the platform of this engine ({engine_platform()}), not for {wanted}"
        )
    inputs = _inputs()
    if labels_of(NAME).get(INPUTS_LABEL) != inputs:
        debian = _debian()
        say("building the look-alike of the EMR base (once) …")
        options = ["--build-arg", f"DEBIAN={debian}", "--label", f"{INPUTS_LABEL}={inputs}"]
        build(NAME, [*options, "--label", "music-streaming-kpis.base=local"], _write_context)
    return NAME


def _inputs() -> str:
    """Return a hash of all that the look-alike is made of, apart from Debian's own updates."""
    files = [*sorted(FOLDER.iterdir()), JAR_LIST]
    contents = {path.name: path.read_bytes() for path in files}
    spark = re.search(r"^pyspark==\S+(?: \\\n.*--hash.*)+", (LOCKS / "dev.txt").read_text("utf-8"), re.MULTILINE)
    if spark is None:
        raise DockerError("locks/dev.txt has no pyspark")
    # How Debian is bootstrapped and what of Spark is taken is written in this file.
    return digest_of(contents | {"pyspark": spark.group().encode(), "maker": Path(__file__).read_bytes()})


def _write_context(context: tarfile.TarFile) -> None:
    for name in ("Dockerfile", "entrypoint.sh", "packages.txt"):
        add_file(context, FOLDER / name, name)
    spark = spark_home()
    for name in SPARK_FOLDERS:
        add_tree(context, spark / name, f"spark/{name}", ["__pycache__"])
    add_tree(context, spark / "python" / "lib", "spark/python/lib")
    for jar, path in jars_for(["delta", "s3"]).items():
        place = f"delta/{DELTA_NAMES[jar.artifact]}" if jar.purpose == "delta" else f"spark/jars/{jar.file_name}"
        add_file(context, path, place)


# --- Debian ---


def _debian() -> str:
    """Return an image with Debian: the official one where a registry is reached, else one made of packages."""
    if inspect_image(DEBIAN) is None and docker("pull", "--quiet", DEBIAN, check=False).returncode != 0:
        say(f"no registry has {DEBIAN}: making a Debian of packages …")
        return _bootstrap()
    return DEBIAN


def _bootstrap() -> str:
    if shutil.which("mmdebstrap") is None or os.geteuid() != 0:
        raise DockerError(
            "no image registry can be reached, and making a Debian of packages needs root and mmdebstrap; "
            "docker/engine.sh, as root, installs it"
        )
    names = [line for line in (FOLDER / "packages.txt").read_text("utf-8").split("\n") if not line.startswith("#")]
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "debian.tar"
        command = ["mmdebstrap", "--quiet", "--variant=essential", f"--include={','.join(filter(None, names))}"]
        command += ["--aptopt=APT::Install-Recommends false", f"--customize-hook={_forget_this_machine()}"]
        env = os.environ | {"SOURCE_DATE_EPOCH": str(FILE_TIME), "TMPDIR": folder}
        done = subprocess.run(
            [*command, SUITE, str(archive), *_debian_sources()], env=env, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise DockerError("mmdebstrap failed:\n" + "\n".join(done.stderr.splitlines()[-15:]))
        path = "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        feed(["docker", "import", "--change", path, "-", BOOTSTRAPPED], lambda stream: _copy(archive, stream))
    return BOOTSTRAPPED


def _debian_sources() -> list[str]:
    """Return this machine's own sources of packages where it is the same Debian; else mmdebstrap knows the public ones.

    They tell where Debian's packages are found from here. The image does not keep them.
    """
    release = platform.freedesktop_os_release()
    if release.get("ID") != "debian" or release.get("VERSION_CODENAME") != SUITE:
        return []
    candidates = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("debian.sources")]
    return [str(path) for path in candidates if path.is_file() and path.stat().st_size > 0]


def _forget_this_machine() -> str:
    """Return shell commands that take out of the new root ("$1") what names this machine, its network and the time."""
    gone = ["etc/apt/sources.list", "etc/apt/sources.list.d/*", "etc/machine-id", "var/log/*", "var/cache/apt/*"]
    gone += ["var/cache/ldconfig/*", "var/lib/apt/lists/*", "etc/*-", "usr/share/man/*"]
    remove = " ".join(f'"$1"/{path}' for path in gone)
    return f'rm -rf {remove}; for f in hostname resolv.conf; do : >"$1/etc/$f"; done'


def _copy(archive: Path, stream: IO[bytes]) -> None:
    with archive.open("rb") as content:
        shutil.copyfileobj(content, stream, 1024 * 1024)
