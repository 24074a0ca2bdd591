"""Runs inside an image, with nothing but Python's standard library: print what image_contract.py asks for, as JSON."""

import grp
import hashlib
import importlib.metadata
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any


def installed(name: str) -> str:
    """Return the version of a package of the application's Python, or nothing."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def java_version(home: str) -> str:
    """Return the major version of Java."""
    done = subprocess.run([f"{home}/bin/java", "-version"], capture_output=True, text=True, check=False)
    found = re.search(r'version "(\d+)', done.stderr)
    return found.group(1) if found else ""


def writable_for_us(allowed: list[str]) -> list[str]:
    """Return what the user could write of the programs, whether or not the file system is mounted read-only."""
    found = []
    me, groups = os.geteuid(), {os.getegid(), *os.getgroups()}
    for root in ("/opt/music-streaming-kpis", "/usr/lib/spark", "/usr/share/aws", "/usr/bin"):
        for folder, names, files in os.walk(root):
            for path in (Path(folder), *(Path(folder, name) for name in (*names, *files))):
                if path.is_symlink() or str(path) in allowed:
                    continue
                facts = path.stat()
                mode = facts.st_mode
                ours = (facts.st_uid == me and mode & 0o200) or (facts.st_gid in groups and mode & 0o020)
                if ours or mode & 0o002:
                    found.append(str(path))
    return sorted(set(found))[:10]


def main(question: dict[str, Any]) -> dict[str, Any]:
    """Answer what is asked."""
    files, commands = question["files"], question["commands"]
    home = os.environ.get("JAVA_HOME", "")
    return {
        "user": f"{pwd.getpwuid(os.geteuid()).pw_name}:{grp.getgrgid(os.getegid()).gr_name}",
        "executable": [path for path in files["executable"] if os.access(path, os.X_OK)],
        "readable": [path for path in files["readable"] if os.access(path, os.R_OK)],
        "sha256": {path: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in files["as_in_base"]},
        "writable": writable_for_us(files["writable"]),
        "on_path": [command for command in commands["on_path"] if shutil.which(command)],
        "not_added": [command for command in commands["not_added"] if shutil.which(command)],
        "java_home": os.access(f"{home}/bin/java", os.X_OK),
        "java": java_version(home),
        "python": "{}.{}".format(*sys.version_info),
        "version": installed("music-streaming-kpis"),
        "installed": [name for name in question["not_installed"] if installed(name)],
    }


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
