"""What alerts say, and that nothing of others in them does harm."""

from kpi_pipeline.alerts import messages
from kpi_pipeline.files.outcome import FileOutcomes
from kpi_pipeline.settings import PipelineSettings, load_pipeline_settings

HOSTILE = "streams/a\r\nBcc: x\x1b[31m\u202e.csv"


def settings() -> PipelineSettings:
    needed = {"bucket_name": "b-1", "emr_application_id": "a", "execution_role_arn": "arn:aws:iam::123456789012:role/x"}
    return load_pipeline_settings(needed.get)


def test_names_and_words_of_others_are_cleaned() -> None:
    outcomes = FileOutcomes(rejected={HOSTILE: "bad\u009b2J"}, failed={HOSTILE: ""})
    alert = messages.run_failed("run\n1", {"task": "it failed\n\x07"}, outcomes, {})
    for text in (alert.subject, alert.text.replace("\n", "")):
        assert text.isprintable(), repr(text)
    assert "Bcc" not in [line.split(":")[0] for line in alert.text.splitlines()]


def test_subjects_and_lines_have_a_limit() -> None:
    alert = messages.run_failed("r", {"t" * 200: "x" * 10_000}, FileOutcomes(), {})
    assert len(alert.subject) == messages.MAX_SUBJECT
    assert max(map(len, alert.text.splitlines())) == messages.MAX_LINE


def test_a_failed_run_always_has_a_reason_and_names_files_and_log() -> None:
    outcomes = FileOutcomes(failed={"streams/a.csv": "x"}, rejected={"streams/b.csv": "run_died: 3"})
    text = messages.run_failed("r", {"run_spark_app": ""}, outcomes, {"job_id": "j", "log": "s3://l"}).text
    assert f"run_spark_app: {messages.NO_REASON}" in text
    for part in ("  streams/a.csv", "  streams/b.csv: run_died: 3", "Log of the Spark job j: s3://l"):
        assert part in text
    assert messages.NO_REASON in messages.run_failed("r", {}, FileOutcomes(), {}).text


def test_long_lists_are_cut() -> None:
    outcomes = FileOutcomes(rejected={f"streams/{number}.csv": "empty_file" for number in range(25)})
    alert = messages.files_not_taken(settings(), "r", outcomes)
    assert alert is not None
    assert alert.subject.endswith("rejected 25 files")
    assert "and 5 more" in alert.text
    assert "s3://b-1/rejected/" in alert.text


def test_files_of_which_the_job_said_nothing_are_not_called_rejected() -> None:
    alert = messages.files_not_taken(settings(), "r", FileOutcomes(failed={"streams/a.csv": ""}))
    assert alert is not None
    assert alert.subject.endswith("did not take in 1 file")
    assert "did not take in 1 file." in alert.text
    assert "rejected" not in alert.text


def test_nothing_to_tell_is_no_alert() -> None:
    assert messages.files_not_taken(settings(), "r", FileOutcomes(succeeded=["streams/a.csv"])) is None
    assert messages.files_not_archived("r", {}) is None
    assert messages.items_not_delivered("r", []) is None
    assert messages.exports_broken("r", []) is None


def test_items_that_cannot_be_delivered_are_named_by_their_keys() -> None:
    key = {"date": {"S": "2024-06-25"}, "genre": {"S": "pop"}}
    item = {"table": "DailyGenreKPIs", "key": key, "reason": "too_large", "bytes": 500_000}
    alert = messages.items_not_delivered("r", [item])
    assert alert is not None
    assert "  DailyGenreKPIs 2024-06-25, pop: too_large, 500000 bytes" in alert.text
