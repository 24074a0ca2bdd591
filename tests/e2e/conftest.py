"""One emulated AWS and one mailbox for all tests."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.pipeline import Mailbox
from tools.dag_job import IMAGE
from tools.emulated_aws import EmulatedAws
from tools.main_job import sample_data
from tools.toolchain import ROOT

TRACKS = 40
REAL_DATA = ROOT.parent / "shared" / "data" / "raw"


@dataclass(frozen=True)
class Source:
    """The input, a day of it, and tracks that songs know."""

    folder: Path
    day: str
    tracks: tuple[str, ...]

    def listens(self, count: int, first_user: int) -> list[tuple[object, ...]]:
        """Listens on that day that no file has: of many genres and hours, so that many items change."""
        return [
            (
                first_user + number,
                self.tracks[number % len(self.tracks)],
                f"{self.day} {number % 24:02d}:{number % 60:02d}:30",
            )
            for number in range(count)
        ]


@pytest.fixture(scope="session")
def source() -> Source:
    """The real data where they are, else the sample."""
    folder = REAL_DATA if REAL_DATA.is_dir() else sample_data()
    with min((folder / "songs").glob("*.csv")).open(encoding="utf-8", newline="") as songs:
        known = list(dict.fromkeys(row["track_id"] for row in csv.DictReader(songs)))
    streams = min(path for path in (folder / "streams").glob("*.csv"))
    with streams.open(encoding="utf-8", newline="") as listens:
        day = next(csv.DictReader(listens))["listen_time"][:10]
    return Source(folder, day, tuple(known[:: max(1, len(known) // TRACKS)]))


@pytest.fixture(scope="session")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatedAws]:
    """The services; jobs run directly on this machine, and share a driver: that of the first one."""
    with EmulatedAws(tmp_path_factory.mktemp("aws"), warm=True) as services:
        yield services


@pytest.fixture(scope="session")
def aws_with_image(tmp_path_factory: pytest.TempPathFactory, aws: EmulatedAws) -> Iterator[EmulatedAws]:
    """The same, with jobs in the local image where Docker has it, else by a `spark-submit` of their own."""
    with EmulatedAws(tmp_path_factory.mktemp("aws-image"), IMAGE, dynamodb=aws.dynamodb) as services:
        yield services


@pytest.fixture(scope="session")
def mailbox() -> Iterator[Mailbox]:
    """Where alerts arrive."""
    with Mailbox() as box:
        yield box
