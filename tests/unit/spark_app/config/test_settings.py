import os
from pathlib import Path

import pytest

from kpi_common.conf_files import CONF_DIR_VARIABLE
from spark_app.config.settings import ENVIRONMENT_PREFIX, Settings, load_settings
from spark_app.errors import UsageError
from spark_app.lake.lock import LONGEST_LEASE_SECONDS


def test_the_files_of_each_environment_are_complete() -> None:
    for env in ("local", "emr"):
        assert isinstance(load_settings(env), Settings)


def test_the_file_of_an_environment_wins_over_the_defaults() -> None:
    assert load_settings("local").lock_wait_seconds == 30
    assert load_settings("emr").lock_wait_seconds == 600


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(ENVIRONMENT_PREFIX)]:
        monkeypatch.delenv(name)


def test_environment_variables_win_over_files_and_set_wins_over_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSIC_KPIS_MAX_FILES", "7")
    monkeypatch.setenv("MUSIC_KPIS_LOCK_WAIT_SECONDS", "1.5")
    settings = load_settings("local", ["max_files = 9"])
    assert settings.max_files == 9
    assert settings.lock_wait_seconds == 1.5


def test_the_last_of_two_assignments_wins() -> None:
    assert load_settings("local", ["max_files=1", "max_files=2"]).max_files == 2


def test_a_value_may_hold_an_equals_sign_of_its_own() -> None:
    with pytest.raises(UsageError, match="'a=b'"):
        load_settings("local", ["kpi_time_zone=a=b"])


@pytest.mark.parametrize("text", ["true", "1", "yes"])
def test_words_for_yes_are_understood(text: str) -> None:
    assert load_settings("local", [f"allow_name_reuse={text}"]).allow_name_reuse


def test_an_unknown_environment_names_those_there_are() -> None:
    with pytest.raises(UsageError, match="--env moon: unknown environment; known are: emr, local"):
        load_settings("moon")


def test_an_unknown_setting_says_where_it_came_from_and_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"unknown setting `max_file` \(from --set\); known are: .*max_files"):
        load_settings("local", ["max_file=1"])
    monkeypatch.setenv("MUSIC_KPIS_MAX_FILE", "1")
    with pytest.raises(UsageError, match=r"unknown setting `max_file` \(from MUSIC_KPIS_MAX_FILE\)"):
        load_settings("local")


def test_variables_of_the_delivery_and_the_dag_are_not_ours_to_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    without = load_settings("local")
    monkeypatch.setenv("MUSIC_KPIS_DYNAMODB_TABLE_PREFIX", "x")
    monkeypatch.setenv("MUSIC_KPIS_DAG_SCHEDULE", "daily")
    monkeypatch.setenv(CONF_DIR_VARIABLE, str(Path(__file__).parents[4] / "conf"))
    assert load_settings("local") == without


def test_an_assignment_without_value_is_refused() -> None:
    with pytest.raises(UsageError, match="--set max_files: expected name=value"):
        load_settings("local", ["max_files"])


@pytest.mark.parametrize(
    "assignment",
    [
        "kpi_time_zone=Europe/Atlantis",
        "kpi_time_zone=",
        "source_time_zone=../../etc/passwd",
        "max_quarantined_share=1.01",
        "max_quarantined_share=-0.01",
        "max_waiting_share=nan",
        "in_future_tolerance_hours=-1",
        "in_future_tolerance_hours=inf",
        "allow_name_reuse=perhaps",
        "max_files=0",
        "max_files=1.5",
        "max_bytes=ten",
        "lock_lease_seconds=0",
        "lock_lease_seconds=inf",
        "lock_wait_seconds=-1",
        "lock_wait_seconds=inf",
        "export_part_items=0",
        "retention_days=-1",
        "rows_per_data_file=999",
        "usd_per_vcpu_hour=-1",
        "usd_per_gb_hour=free",
    ],
)
def test_a_value_that_is_not_allowed_is_named(assignment: str) -> None:
    name, _, value = assignment.partition("=")
    with pytest.raises(UsageError) as raised:
        load_settings("local", [assignment])
    assert f"setting `{name}` (from --set) is {value!r}; allowed is: " in str(raised.value)
    assert raised.value.exit_code == 2


def test_all_mistakes_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSIC_KPIS_KPI_TIME_ZONE", "Mars")
    with pytest.raises(UsageError) as raised:
        load_settings("local", ["max_files=0", "nonsense=1"])
    message = str(raised.value)
    assert "`max_files` (from --set) is '0'" in message
    assert "unknown setting `nonsense`" in message
    assert "`kpi_time_zone` (from MUSIC_KPIS_KPI_TIME_ZONE) is 'Mars'; allowed is: an IANA time zone" in message


def test_settings_do_not_change() -> None:
    settings = load_settings("local")
    with pytest.raises(ValueError, match="frozen"):
        settings.max_files = 1  # type: ignore[misc]


def test_a_setting_that_no_file_has_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "settings").mkdir()
    (tmp_path / "settings" / "default.toml").write_text('kpi_time_zone = "UTC"\n')
    (tmp_path / "settings" / "own.toml").write_text("")
    monkeypatch.setenv(CONF_DIR_VARIABLE, str(tmp_path))
    with pytest.raises(UsageError, match="setting `source_time_zone` is in no file of conf/settings"):
        load_settings("own")


def test_a_lease_that_other_runs_would_not_believe_is_refused() -> None:
    assert load_settings("local", [f"lock_lease_seconds={LONGEST_LEASE_SECONDS}"])
    with pytest.raises(UsageError, match=r"`lock_lease_seconds` \(from --set\) is '3601'; allowed is: .* 3600"):
        load_settings("local", [f"lock_lease_seconds={LONGEST_LEASE_SECONDS + 1}"])


def test_the_two_databases_of_glue_have_different_names() -> None:
    assert load_settings("local", ["glue_database=", "glue_spectrum_database="]).glue_database == ""
    with pytest.raises(UsageError, match=r"glue_spectrum_database` .* is 'music'; allowed is: another name"):
        load_settings("local", ["glue_database=music", "glue_spectrum_database=music"])
