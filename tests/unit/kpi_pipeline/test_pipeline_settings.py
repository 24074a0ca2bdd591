import json

import jsonschema
import pytest

from kpi_common.errors import UsageError
from kpi_pipeline.settings import (
    PipelineSettings,
    load_alert_settings,
    load_pipeline_settings,
    param_schemas,
    settings_variable,
)

NEEDED = {
    "bucket_name": "my-bucket",
    "emr_application_id": "00f1",
    "execution_role_arn": "arn:aws:iam::123456789012:role/job",
}


def test_one_bucket_serves_for_all() -> None:
    settings = load_pipeline_settings(NEEDED.get)
    assert (settings.source, settings.lake) == ("s3://my-bucket/raw", "s3://my-bucket/lake")
    assert settings.archive_bucket == settings.intermediate_bucket == "my-bucket"


def test_each_bucket_can_have_a_name_of_its_own() -> None:
    settings = load_pipeline_settings({**NEEDED, "source_bucket": "landing", "source_prefix": "/in/"}.get)
    assert settings.source == "s3://landing/in"
    assert settings.lake_bucket == "my-bucket"


def test_all_that_is_missing_is_named_at_once() -> None:
    with pytest.raises(UsageError, match="missing: bucket_name, emr_application_id, execution_role_arn"):
        load_pipeline_settings({}.get)


def test_a_wrong_value_is_told() -> None:
    with pytest.raises(UsageError, match="execution_role_arn='nobody'"):
        load_pipeline_settings({**NEEDED, "execution_role_arn": "nobody"}.get)


def test_params_come_before_variables_and_empty_ones_do_not_count() -> None:
    params = {"table_prefix": "test-", "lake_prefix": "", "max_files": None}
    variables = {**NEEDED, "table_prefix": "prod-", "lake_prefix": "delta", "max_files": "7"}
    settings = load_pipeline_settings(params.get, variables.get)
    assert (settings.table_prefix, settings.lake_prefix, settings.max_files) == ("test-", "delta", 7)


def test_objects_and_lists_can_be_text_as_in_a_variable() -> None:
    given = {**NEEDED, "job_settings": '{"kpi_time_zone": "UTC", "allow_name_reuse": true}', "alert_emails": "a@x, b@x"}
    settings = load_pipeline_settings(given.get)
    assert settings.job_settings == {"kpi_time_zone": "UTC", "allow_name_reuse": "true"}
    assert settings.alert_emails == ("a@x", "b@x")


def test_a_run_carries_them_as_plain_data() -> None:
    settings = load_pipeline_settings({**NEEDED, "alert_emails": "a@x"}.get)
    assert PipelineSettings(**settings.to_json()) == settings


@pytest.mark.parametrize("text", ["{'job_settings': {}}", '["a"]', "7", "{"])
def test_a_variable_that_is_no_json_object_is_named_with_the_mend(text: str) -> None:
    with pytest.raises(UsageError, match=r"Variable music_streaming_pipeline is not a JSON object.*double quotes"):
        settings_variable(text)


def test_a_variable_that_is_not_set_has_nothing() -> None:
    assert settings_variable(None) == settings_variable("") == {}
    assert settings_variable('{"max_files": 7}') == {"max_files": 7}


@pytest.mark.parametrize("name", ["spark.hadoop.x.password", "spark.ssl.keyPassword", "spark.my.api_token"])
def test_a_secret_does_not_go_by_settings(name: str) -> None:
    with pytest.raises(UsageError, match="Secrets Manager") as error:
        load_pipeline_settings({**NEEDED, "spark_conf": {name: "hunter2"}}.get)
    assert "hunter2" not in str(error.value)
    by_reference = {name: "EMR.secret@arn:aws:secretsmanager:eu-central-1:123456789012:secret:x"}
    assert load_pipeline_settings({**NEEDED, "spark_conf": by_reference}.get).spark_conf == by_reference


def test_the_name_of_a_databases_secret_is_a_setting_of_the_job() -> None:
    job_settings = {"songs_source": "jdbc:postgresql://db/music", "database_secret": "music/database"}
    assert load_pipeline_settings({**NEEDED, "job_settings": job_settings}.get).job_settings == job_settings
    with pytest.raises(UsageError, match="Secrets Manager"):
        load_pipeline_settings({**NEEDED, "job_settings": {"database_password": "hunter2"}}.get)


def test_who_hears_of_a_run_is_known_without_the_other_settings() -> None:
    assert load_alert_settings({"alert_emails": "a@x", "max_files": "wrong"}.get).alert_emails == ("a@x",)


@pytest.mark.parametrize(
    ("name", "good", "wrong"),
    [
        ("max_executors", [None, 3], [0, "three", 1.5]),
        ("driver_cores", [None, 4], [3, "4 cores"]),
        ("driver_memory", [None, "14g"], ["14", "14 GB"]),
        ("adopt_lake", [None, True], ["yes"]),
        ("job_settings", [None, {"a": 1}], [7]),
        ("alert_emails", [None, "a@x, b@x"], [7]),
        ("execution_role_arn", [None, "arn:aws:iam::123456789012:role/x"], ["nobody"]),
    ],
)
def test_the_run_form_refuses_wrong_values(name: str, good: list[object], wrong: list[object]) -> None:
    validator = jsonschema.Draft202012Validator(param_schemas()[name])
    assert all(validator.is_valid(value) for value in good)
    assert not any(validator.is_valid(value) for value in wrong)


def test_every_param_says_what_it_is() -> None:
    schemas = param_schemas()
    assert schemas.keys() == PipelineSettings.model_fields.keys()
    for name, schema in schemas.items():
        assert schema["description"], name
        assert schema["section"], name
    assert schemas["max_files"]["description"].endswith("(default: 5000)")


def test_serverless_storage_takes_no_small_workers() -> None:
    small = {**NEEDED, "serverless_storage": True, "executor_cores": 2}
    with pytest.raises(UsageError, match="at least 4 vCPUs: raise executor_cores"):
        load_pipeline_settings(small.get)
    assert load_pipeline_settings({**small, "executor_cores": 4}.get).serverless_storage


def test_a_policy_may_be_an_object() -> None:
    policy = {"Version": "2012-10-17", "Statement": []}
    found = load_pipeline_settings({**NEEDED, "execution_iam_policy": policy}.get)
    assert json.loads(found.execution_iam_policy) == policy


REDSHIFT = {"redshift_workgroup": "kpis", "redshift_database": "d", "redshift_copy_role": "default"}


def test_redshift_is_off_unless_it_is_set() -> None:
    assert not load_pipeline_settings(NEEDED.get).redshift_is_on
    settings = load_pipeline_settings({**NEEDED, **REDSHIFT}.get)
    assert settings.redshift_is_on
    assert settings.target == {"workgroup_name": "kpis", "database": "d"}


@pytest.mark.parametrize(
    ("left_out", "missing"),
    [
        ("redshift_workgroup", "redshift_workgroup or redshift_cluster"),
        ("redshift_database", "redshift_database"),
        ("redshift_copy_role", "redshift_copy_role"),
    ],
)
def test_a_half_set_redshift_names_what_is_missing(left_out: str, missing: str) -> None:
    given = {**NEEDED, **REDSHIFT, left_out: ""}
    with pytest.raises(UsageError, match=f"Redshift is half set; missing: {missing}"):
        load_pipeline_settings(given.get)
