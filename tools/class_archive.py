"""Archives of Java's classes, with which Spark starts and warms up some seconds sooner (class data sharing).

`python -m tools.class_archive PURPOSE …` makes the archive for runs with the jars of these purposes, by a run on
sample data. Java leaves an archive aside that was made by another Java or with other jars, so it can't do harm.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tools.jars import jars_for
from tools.sample_data import make_sample_data
from tools.spark_submit import archive_of, spark_home, submit_command, submit_environment
from tools.toolchain import find_java, say


def make_archive(purposes: Sequence[str]) -> Path | None:
    """Make the archive if it is not there yet; None if this Java has none of its own classes to build upon."""
    home = find_java(os.environ)
    if home is None or not (home / "lib" / "server" / "classes.jsa").exists():
        return None
    archive = archive_of(purposes)
    archive.parent.mkdir(parents=True, exist_ok=True)
    with archive.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made_from = archive.with_suffix(".made-from")
        wanted = "\n".join(map(str, (home, (home / "release").read_text(), spark_home(), *jars_for(purposes).values())))
        if not (archive.exists() and made_from.exists() and made_from.read_text() == wanted):
            say(f"preparing Java's classes for Spark ({' and '.join(purposes)}; once, half a minute) …")
            archive.unlink(missing_ok=True)
            _train(archive, purposes)
            made_from.write_text(wanted)
    return archive


def _train(archive: Path, purposes: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_sample_data(folder / "raw")
        environment = submit_environment(os.environ, purposes, short_run=True)
        environment["SPARK_SUBMIT_OPTS"] += f" -XX:ArchiveClassesAtExit={folder / 'archive'} -Xlog:cds*=off"
        arguments = ["run", "--input", str(folder / "raw"), "--lake", str(folder / "lake")]
        done = subprocess.run(
            submit_command(arguments, purposes), env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode != 0 or not (folder / "archive").exists():
            say(f"could not prepare Java's classes, which only takes time: {done.stderr[-1000:]}")
            return
        shutil.copyfile(folder / "archive", archive.with_suffix(".new"))
        archive.with_suffix(".new").replace(archive)


if __name__ == "__main__":
    make_archive(tuple(sys.argv[1:]) or ("delta",))
