from pathlib import Path

import pytest

from tools import main_job, spark_submit
from tools.main_job import dynamodb_folder, is_small, jar_purposes, main


def test_each_lake_has_dynamodb_data_of_its_own() -> None:
    assert dynamodb_folder("/data/lake") != dynamodb_folder("/data/other")
    assert dynamodb_folder("/data/lake") == dynamodb_folder("/data/lake")


def test_s3_jars_are_asked_for_where_a_place_is_in_s3() -> None:
    assert jar_purposes(["/data/raw", "/data/lake"]) == ["delta"]
    assert jar_purposes(["/data/raw", "s3://bucket/lake"]) == ["delta", "s3"]
    assert jar_purposes(["/data/lake", "songs_source=jdbc:postgresql://host/db"]) == ["delta", "jdbc"]


def test_a_small_input_is_told_from_a_large_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "streams").mkdir()
    (tmp_path / "streams" / "a.csv").write_bytes(b"x" * 100)
    assert is_small(str(tmp_path))
    monkeypatch.setattr(main_job, "SMALL_INPUT_BYTES", 50)
    assert not is_small(str(tmp_path))
    assert not is_small("s3://bucket/raw")


def test_deliveries_of_a_lake_that_was_removed_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main_job, "DYNAMODB_FOLDER", tmp_path / "dynamodb")
    lake = tmp_path / "lake"
    folder = dynamodb_folder(str(lake))
    folder.mkdir(parents=True)
    (lake / "exports" / "run").mkdir(parents=True)
    (lake / "exports" / "run" / "manifest.json").write_text("{}", "ascii")
    main_job.forget_deliveries_of_another_lake(str(lake))
    assert folder.exists()
    (lake / "exports" / "run" / "manifest.json").unlink()
    main_job.forget_deliveries_of_another_lake(str(lake))
    assert not folder.exists()


def test_a_wrong_place_is_an_error_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--input", "ftp://server/raw"]) == 2
    assert capsys.readouterr().err == "error: ftp://server/raw: only local paths and s3:// are supported\n"


def test_spark_runs_with_this_python_on_loopback_and_in_utc() -> None:
    env = spark_submit.submit_environment({"TZ": "Asia/Tokyo", "AWS_PROFILE": "mine"}, short_run=True)
    assert (env["TZ"], env["SPARK_LOCAL_IP"], env["AWS_PROFILE"]) == ("UTC", "127.0.0.1", "mine")
    assert (Path(env["SPARK_HOME"]) / "bin" / "spark-submit").is_file()
    assert "TieredStopAtLevel" in env["SPARK_SUBMIT_OPTS"]
    assert "TieredStopAtLevel" not in spark_submit.submit_environment({})["SPARK_SUBMIT_OPTS"]


def test_java_starts_from_the_archive_of_its_classes_where_one_was_made_for_these_jars(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spark_submit, "CLASS_ARCHIVES", tmp_path)
    (tmp_path / "delta-s3.jsa").touch()
    given = {"SPARK_SUBMIT_OPTS": "-Dmine=1"}
    assert "SharedArchiveFile" not in spark_submit.submit_environment(given)["SPARK_SUBMIT_OPTS"]
    options = spark_submit.submit_environment(given, ("delta", "s3"))["SPARK_SUBMIT_OPTS"].split()
    assert options[0] == "-Dmine=1"
    assert f"-XX:SharedArchiveFile={tmp_path}/delta-s3.jsa" in options
