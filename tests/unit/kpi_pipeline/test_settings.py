"""Settings of the delivery and the package's rules of import."""

import subprocess
import sys
from pathlib import Path

import pytest

from kpi_common.conf_files import CONF_DIR_VARIABLE
from kpi_common.errors import UsageError
from kpi_pipeline.dynamodb.tables import processed_streams_layout, status_layout
from kpi_pipeline.settings import DeliverySettings, load_delivery_settings

PACKAGE = Path(__file__).resolve().parents[3] / "dags" / "kpi_pipeline"


def test_the_file_and_the_defaults_agree() -> None:
    assert load_delivery_settings() == DeliverySettings()


def test_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSIC_KPIS_DYNAMODB_WORKERS", "3")
    monkeypatch.setenv("MUSIC_KPIS_DYNAMODB_PREFIX", "dev-")
    settings = load_delivery_settings(workers=5)
    assert settings.writer.workers == 5
    assert settings.table_name("T") == "dev-T"
    assert load_delivery_settings().writer.workers == 3


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"workers": 0}, "writer.workers: Input should be greater than or equal to 1"),
        ({"max_write_rate": -1}, "writer.max_write_rate"),
        ({"lease_seconds": 0.1}, "writer.lease_seconds"),
        ({"prefix": "a b"}, "tables.prefix"),
        ({"billing_mode": "FREE"}, "tables.billing_mode: Input should be 'PAY_PER_REQUEST' or 'PROVISIONED'"),
    ],
)
def test_errors_name_the_setting(overrides: dict[str, object], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        load_delivery_settings(**overrides)


def test_unknown_settings_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = load_delivery_settings()
    monkeypatch.setenv(CONF_DIR_VARIABLE, str(tmp_path))
    assert load_delivery_settings() == ours, "what is not in a folder of one's own"
    (tmp_path / "dynamodb").mkdir()
    (tmp_path / "dynamodb" / "operations.toml").write_text("[writer]\nwrokers = 3\n", "utf-8")
    with pytest.raises(UsageError, match=r"writer\.wrokers: Extra inputs are not permitted"):
        load_delivery_settings()
    (tmp_path / "dynamodb" / "operations.toml").write_text("[writer\n", "utf-8")
    with pytest.raises(UsageError, match="not valid TOML"):
        load_delivery_settings()
    monkeypatch.setenv(CONF_DIR_VARIABLE, str(tmp_path / "none"))
    with pytest.raises(UsageError, match="there is no such folder"):
        load_delivery_settings()


def test_layouts_of_the_pipelines_own_tables() -> None:
    settings = load_delivery_settings()
    assert [(key.name, key.type) for key in status_layout(settings).keys] == [("date", "S")]
    assert [(key.name, key.type) for key in processed_streams_layout(settings).keys] == [("filename", "S")]


def test_the_package_imports_neither_airflow_nor_spark() -> None:
    script = "import sys, kpi_pipeline.cli; print([m for m in ('airflow', 'pyspark', 'spark_app') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PACKAGE.parent, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
