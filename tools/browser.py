"""A real browser for tests: Playwright and axe-core, got once, with the Chromium or Chrome that this machine has."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from pathlib import Path

from tools.toolchain import (
    BUILD,
    LOCKS,
    UV,
    VENV_PYTHON,
    get_uv,
    is_made_from,
    mark_made_from,
    network_environment,
    run,
)

FOLDER = BUILD / "browser"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_browser() -> str | None:
    """Return the path of a browser that Playwright can drive, or None."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def get_playwright() -> None:
    """Make `import playwright` and `axe_playwright_python` work in this process; one process at a time gets them.

    Raises:
        ToolchainError: uv could not install them.
    """
    lock = LOCKS / "browser.txt"
    BUILD.mkdir(exist_ok=True)
    with (BUILD / "browser.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not is_made_from(FOLDER, lock):
            env = network_environment(os.environ)
            get_uv(env)
            shutil.rmtree(FOLDER, ignore_errors=True)
            install: list[str | Path] = [
                UV,
                "pip",
                "install",
                "--quiet",
                "--require-hashes",
                "--python",
                VENV_PYTHON,
                "--target",
                FOLDER,
            ]
            run([*install, "-r", lock], env, "uv could not install the packages of locks/browser.txt")
            mark_made_from(FOLDER, lock)
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
