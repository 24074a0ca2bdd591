"""Forgetting a user, killed at named points and started again: the end is that of one who was not disturbed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from mypy_boto3_dynamodb import DynamoDBClient

from tests.faults.conftest import Tell
from tests.faults.harness import Workplace, end_of
from tests.faults.lives import FORGETTING
from tests.faults.sample import Sample
from tests.integration.test_forget_user import naming

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(3600)]
GONE = "7"


def first_day(folder: Path, sample: Sample) -> Workplace:
    """A lake of the first day, made of an input of its own, which is to be rewritten."""
    place = Workplace(folder, {"MUSIC_KPIS_FORGET_KEY": str(folder / "key")})
    shutil.copytree(sample.first, folder / "input", copy_function=shutil.copy2)
    (folder / "key").write_text("k" * 40, "utf-8")
    place.run_well(["run", "--input", str(folder / "input")], "first")
    return place


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of all files of the input."""
    found = [path for path in (folder / "input").rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


def test_forgetting(tmp_path: Path, sample: Sample, dynamodb: DynamoDBClient, table_prefix: str, tell: Tell) -> None:
    ends = []
    for name, plans in (("undisturbed", []), ("disturbed", FORGETTING)):
        (tmp_path / name).mkdir()
        place = first_day(tmp_path / name, sample)
        place.deliver(f"{table_prefix}{name}-")
        before = files(place.folder)
        breaks = place.live(["forget-user", GONE, "--files", str(place.folder / "input"), "--rewrite"], plans)
        place.run_well(["run", "--input", str(place.folder / "input")], "after")  # which finds nothing new
        place.deliver(f"{table_prefix}{name}-")
        ends.append((end_of(place, dynamodb, f"{table_prefix}{name}-"), files(place.folder)))
        assert ends[-1][1] != before
        assert [name for name in naming(place.lake / "staged", GONE) if name.endswith(".parquet")] == []
    (undisturbed, rewritten), (disturbed, rewritten_too) = ends
    differences = disturbed.differences(undisturbed)
    for one in breaks:
        tell(f"forget-user, {one.point}", one.note, equal=not differences)
    assert differences == []
    assert rewritten == rewritten_too
