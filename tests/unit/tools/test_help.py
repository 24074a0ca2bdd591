"""Help is told at once: before anything is got, so by a Python that has no packages."""

import subprocess
import sys

import pytest

from tools.toolchain import ROOT

COMMANDS = ("main_job", "image", "image_push", "dag_job", "package", "lock")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_needs_no_package(command: str) -> None:
    """`-S` leaves out site-packages."""
    words = [sys.executable, "-S", "-m", f"tools.{command}", "--help"]
    done = subprocess.run(words, cwd=ROOT, env={}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout
