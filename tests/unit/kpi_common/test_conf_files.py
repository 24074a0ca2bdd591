import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from moto import mock_aws

from kpi_common import conf_files
from kpi_common.aws import shared_s3_client
from kpi_common.conf_files import CONF_DIR_VARIABLE, conf_dirs, conf_file, load_schema, load_toml
from spark_app.errors import UsageError

SCHEMAS = sorted((Path(__file__).parents[3] / "conf" / "schemas").glob("*.schema.json"))


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.name)
def test_each_schema_is_valid_draft_2020_12(path: Path) -> None:
    schema = json.loads(path.read_text(encoding="utf-8"))
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(schema)


def test_every_file_that_passes_between_the_parts_has_a_schema() -> None:
    names = {path.name.removesuffix(".schema.json") for path in SCHEMAS}
    assert names >= {"run_manifest", "run_result", "export_manifest", "delivery_receipt"}
    assert load_schema("run_result")["title"]


def test_the_variable_names_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONF_DIR_VARIABLE, str(tmp_path))
    (tmp_path / "own.toml").write_text('name = "ä"\n', encoding="utf-8")
    assert load_toml("own.toml") == {"name": "ä"}
    assert load_toml("contracts/users.toml")["dataset"] == "users", "what it does not hold is ours"


def test_a_folder_in_s3_is_brought_here_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv(CONF_DIR_VARIABLE, "s3://settings/kpis")
    with mock_aws():
        shared_s3_client.cache_clear()
        s3 = shared_s3_client()
        s3.create_bucket(Bucket="settings")
        with pytest.raises(UsageError, match="s3://settings/kpis: there are no files of conf/ there"):
            conf_dirs()
        s3.put_object(Bucket="settings", Key="kpis/settings/site.toml", Body=b"max_files = 7\n")
        assert load_toml("settings/site.toml") == {"max_files": 7}
        s3.delete_object(Bucket="settings", Key="kpis/settings/site.toml")
        assert load_toml("settings/site.toml") == {"max_files": 7}
        assert load_toml("settings/default.toml")["max_files"] != 7
    shared_s3_client.cache_clear()


def test_a_variable_that_names_no_folder_is_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONF_DIR_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="there is no such folder"):
        conf_file("settings/default.toml")


def test_files_packed_beside_the_code_win_over_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CONF_DIR_VARIABLE, raising=False)
    package = tmp_path / "site" / "kpi_common"
    package.mkdir(parents=True)
    monkeypatch.setattr(conf_files, "__file__", str(package / "conf_files.py"))
    with pytest.raises(UsageError, match="no conf/ folder"):
        conf_dirs()
    (tmp_path / "site" / "conf").mkdir()
    assert conf_dirs()[0] == tmp_path / "site" / "conf"
    (package / "conf").mkdir()
    assert conf_dirs()[0] == package / "conf"


def test_a_missing_file_and_broken_toml_are_usage_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONF_DIR_VARIABLE, str(tmp_path))
    (tmp_path / "broken.toml").write_text("name = \n")
    with pytest.raises(UsageError, match=r"none\.toml: configuration file not found"):
        load_toml("none.toml")
    with pytest.raises(UsageError, match=r"broken\.toml: not valid TOML: .*line 1"):
        load_toml("broken.toml")
