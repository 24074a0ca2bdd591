import subprocess
import sys
from pathlib import Path

from tests.oracle import Oracle
from tools.sample_data import make_sample_data


def _files(directory: Path) -> dict[str, tuple[bytes, float]]:
    return {
        str(path.relative_to(directory)): (path.read_bytes(), path.stat().st_mtime)
        for path in sorted(directory.glob("*/*"))
    }


def test_it_is_the_same_each_time_and_small(tmp_path: Path) -> None:
    make_sample_data(tmp_path / "a")
    subprocess.run([sys.executable, "-m", "tools.sample_data", str(tmp_path / "b")], check=True)
    files = _files(tmp_path / "a")
    assert files == _files(tmp_path / "b")
    assert sum(len(content) for content, _ in files.values()) < 200_000


def test_it_holds_what_real_files_hold(tmp_path: Path) -> None:
    make_sample_data(tmp_path)
    outcome = Oracle().run(tmp_path)
    streams = [file for file in outcome.files.values() if file.dataset == "streams"]
    assert [file.name for file in streams if file.outcome == "rejected"] == ["streams/streams_test_export.csv"]
    assert sum(file.duplicates for file in streams) > 0
    assert sum(file.waiting for file in streams) == 4
    reasons = {reason for file in streams if file.outcome == "accepted" for reason in file.quarantined_by_reason()}
    assert len(reasons) >= 8
    assert sum(file.valid for file in streams if file.outcome == "accepted") > 2_900
    counted = sum(int(str(row[2])) for row in outcome.tables["kpis/hourly"])
    assert counted == sum(file.valid - file.waiting for file in streams if file.outcome == "accepted") - 12
    assert len({row[0] for row in outcome.tables["kpis/daily_genre"]}) == 5
