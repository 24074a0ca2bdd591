"""Commands of the pages: which there are, and which tests run them."""

from __future__ import annotations

import re
import shlex
import subprocess
from typing import Any

import pytest

from tools.toolchain import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "tests" / "README.md"])
BLOCK = re.compile(r"^ *```(?:console|bash|sh|shell)(?P<mark>[^\n]*)\n(?P<lines>.*?)^ *```$", re.MULTILINE | re.DOTALL)
run_by_tests: set[str] = set()


def runs(command: str, *more: str) -> Any:
    """Decorate the test that runs a command, with more arguments behind it."""
    run_by_tests.add(command)
    return pytest.mark.parametrize("command", [" ".join([command, *more])], ids=[command[:40]])


def documented() -> list[tuple[str, str]]:
    """Return page and command of all blocks that aren't marked `aws`; where a block shows output, of lines with a $."""
    found = []
    for page in PAGES:
        for block in BLOCK.finditer(page.read_text("utf-8")):
            lines = re.sub(r"\\\n\s*", "", block["lines"]).splitlines()
            shown = [line.strip() for line in lines if line.strip().startswith("$ ")]
            commands = [re.sub(r"\s+#.*", "", line.strip().removeprefix("$ ")) for line in shown or lines]
            if block["mark"].strip() != "aws":
                found += [(page.relative_to(ROOT).as_posix(), command) for command in commands]
    return found


def bash(command: str, **words: object) -> str:
    """Run a command with some of its words replaced; return what it printed."""
    for word, value in words.items():
        command = command.replace(word, shlex.quote(str(value)))
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
