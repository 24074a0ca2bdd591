"""Files that come, change, change back, go and come late: after each step the lake holds what the oracle computes."""

import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from spark_app.cli import main
from tests.integration.application import Application, NewFile, differences, fate_differences
from tests.integration.bad_files import HEADERS, MODIFIED, rows
from tests.oracle import Oracle

pytestmark = pytest.mark.slow


class History:
    """The application and the oracle, told the same things one after the other."""

    def __init__(self, spark: SparkSession, directory: Path) -> None:
        self.application = Application(spark, directory / "input", directory / "lake", {})
        self.oracle = Oracle()
        self._hours = 0

    def put(self, name: str, *records: str, header: str | None = None) -> None:
        """Each file is newer than the ones before."""
        self._hours += 1
        content = rows(header or HEADERS[name.partition("/")[0]], list(records))
        NewFile(name, content, MODIFIED + timedelta(hours=self._hours)).write(self.application.input)

    def run(self, exit_code: int = 0) -> None:
        expected = self.oracle.run(self.application.input)
        assert self.application.run() == expected.exit_code == exit_code
        assert fate_differences(self.application.result(), expected.files) == []
        self.compare()

    def files(self, action: str, name: str, exit_code: int = 0) -> None:
        lake = str(self.application.lake)
        assert main(["files", action, "--lake", lake, name], spark=self.application.spark) == exit_code

    def exported_dates(self) -> list[str]:
        """Of the newest export, which has all dates since the last delivery."""
        manifests = [
            json.loads(path.read_text("utf-8")) for path in self.application.lake.glob("exports/*/manifest.json")
        ]
        dates: list[str] = max(manifests, key=lambda manifest: manifest["export_seq"])["dates"]
        return dates

    def deliver(self) -> None:
        """Leave the writer's receipt in each export."""
        for manifest in self.application.lake.glob("exports/*/manifest.json"):
            (manifest.parent / "delivered.json").write_text("{}", "utf-8")

    def compare(self) -> None:
        assert differences(self.application.kpis(), self.oracle.tables()) == []


def _listens(*users_tracks: tuple[int, str], day: int = 25) -> Sequence[str]:
    return [f"{user},{track},2024-06-{day} 1{user % 10}:00:00" for user, track in users_tracks]


@pytest.fixture
def history(spark: SparkSession, tmp_path: Path) -> History:
    history = History(spark, tmp_path)
    history.put("songs/a.csv", "1,A,Ann,Alpha,50,1000,pop", "2,B,Bob,Beta,50,2000,pop", "3,B,Bob,Beta,50,2000,rock")
    history.put("users/a.csv", "1,Ann,2024-01-01")
    history.put("streams/a.csv", *_listens((1, "A"), (2, "A"), (3, "B")))
    history.put("streams/b.csv", *_listens((3, "B"), (4, "B")), *_listens((1, "A"), day=26))
    return history


@pytest.mark.long
def test_a_stream_file_is_corrected_changed_back_and_withdrawn(history: History) -> None:
    history.run()
    # Listen (3, B) goes from this file, but the other one still has it; 27 June is new, its own 25 June shrinks.
    history.put("streams/a.csv", *_listens((1, "A")), *_listens((2, "A"), day=27))
    history.run()
    history.put("streams/a.csv", "?", "?")
    history.run(exit_code=3)
    history.put("streams/a.csv", *_listens((1, "A"), (2, "A"), (3, "B")))
    history.run()
    history.deliver()
    history.files("withdraw", "streams/b.csv")
    history.oracle.withdraw("streams/b.csv")
    history.compare()
    assert history.exported_dates() == ["2024-06-25", "2024-06-26"]  # nothing is left of the latter
    history.files("withdraw", "streams/b.csv", exit_code=2)
    history.run()  # a withdrawn file doesn't come back by itself
    history.files("retry", "streams/b.csv")
    history.oracle.retry("streams/b.csv")
    history.run()


@pytest.mark.long
def test_users_come_and_songs_are_corrected_and_their_listens_wait_and_count_again(history: History) -> None:
    history.run()
    before = history.application.versions()
    history.put("users/b.csv", "2,Bob,2024-01-01")
    history.run()  # users alone are no reason to compute
    after = history.application.versions()
    assert {table for table in after if table.startswith("kpis/") and after[table] != before[table]} == set()
    # The corrected file no longer names B, another one does. A has another genre.
    history.put("songs/a.csv", "1,A,Ann;Cy,Alpha 2,60,1001,jazz")
    history.put("songs/b.csv", "3,B,Bea,Beta 3,70,3000,jazz")
    history.run()
    # Without that one, the listens of B wait.
    history.files("withdraw", "songs/b.csv")
    history.oracle.withdraw("songs/b.csv")
    history.compare()
    # More than a fifth waits: refused, until songs come.
    history.put("streams/c.csv", *_listens((5, "A"), (6, "B"), (7, "B")))
    history.run(exit_code=3)
    history.put("songs/c.csv", "4,B,Bob,Beta 4,1,4000,rock")
    history.run()


@pytest.mark.long
def test_a_backlog_is_digested_in_pieces(history: History) -> None:
    """Two files a run; at the end the tables are those of one run."""
    for number in range(1, 3):
        history.put(f"streams/more {number}.csv", *_listens((number, "A"), (number, "B"), day=26 + number))
    exit_codes: list[int] = []
    while len(exit_codes) < 12:
        exit_codes.append(history.application.run("--set", "max_files=2"))
        if history.application.result()["status"] == "nothing_to_do":
            break
    assert exit_codes[-1] == 0
    assert len(exit_codes) > 3
    history.oracle.run(history.application.input)
    history.compare()
