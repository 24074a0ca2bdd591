"""Who may write a run's result: the run that holds the lake, any other only where there is none."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from pyspark.sql import SparkSession

from spark_app.cli import main
from spark_app.errors import LockLostError
from spark_app.lake.lock import lake_lock
from spark_app.lake.tables import Lake
from spark_app.run.result import delete_old_results, write_result


def lost() -> None:
    raise LockLostError("lost")


def written(lake: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((lake / "runs" / "same" / "result.json").read_bytes())
    return content


def test_a_run_that_lost_the_lake_leaves_its_successors_result_of_the_same_run_id(tmp_path: Path) -> None:
    content = {"run_id": "same", "status": "failed"}
    write_result(Lake(str(tmp_path), lost), content)
    assert written(tmp_path) == content
    write_result(Lake(str(tmp_path)), content | {"status": "succeeded"})
    with pytest.raises(LockLostError):
        write_result(Lake(str(tmp_path), lost), content)
    assert written(tmp_path)["status"] == "succeeded"


def test_a_run_that_is_refused_leaves_the_result_of_the_one_that_holds_the_lake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it was, a second start under the same run id put its failure in the place of the first one's result."""
    write_result(Lake(str(tmp_path)), {"run_id": "same", "status": "succeeded"})
    command = ["export", "--lake", str(tmp_path), "--run-id", "same", "--set", "lock_wait_seconds=0"]
    with lake_lock(str(tmp_path), "same", 60, 0):
        assert main(command, spark=cast(SparkSession, object())) == 1
    assert written(tmp_path)["status"] == "succeeded"
    assert "the lake is in use by run same" in capsys.readouterr().err


def test_old_results_go_with_their_samples(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    for run_id in ("old", "new"):
        write_result(lake, {"run_id": run_id})
    os.utime(tmp_path / "runs" / "old" / "result.json", (1_700_000_000, 1_700_000_000))
    delete_old_results(lake, datetime.fromtimestamp(1_700_000_001, UTC))
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["new"]
