import pytest

from kpi_pipeline.errors import UsageError
from kpi_pipeline.pipeline_settings import PipelineSettings, load_pipeline_settings

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
