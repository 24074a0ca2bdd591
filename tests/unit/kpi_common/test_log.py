"""What a person sees does nothing to the terminal."""

import json
import logging

import pytest

from kpi_common import log
from kpi_common.contracts import Dataset
from spark_app.cli import _print_error, _print_table
from spark_app.errors import AppError
from spark_app.run.files import FileVersion, Status
from tests.unit.spark_app.builders import FILE_TIME

EVIL = "streams/\x1b[2J\r\n\u202e.csv"
MEEK = "streams/�[2J���.csv"


def record() -> logging.LogRecord:
    made = logging.LogRecord("x", logging.WARNING, "", 0, "file rejected", None, None)
    made.fields = {"file": EVIL}
    return made


def test_a_log_line_is_one_line_without_control_characters() -> None:
    text = log._TextFormatter().format(record())
    assert text.endswith(f"WARNING: file rejected  file={MEEK}")
    line = log._JsonFormatter().format(record())
    assert "\x1b" not in line
    assert "\n" not in line
    assert json.loads(line)["file"] == EVIL


@pytest.mark.parametrize("evil", ["\x1b", "\n", "\r", "\x7f", "\x9b", "\u202e", "\u2066", "\u2028", "\udcff", "\ue000"])
def test_no_form_of_a_log_line_holds_a_character_that_does_something(
    evil: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("music_kpis")
    before = logger.handlers[:], logger.propagate
    try:
        for form in ("json", "text"):
            log.set_up_logging(form)  # type: ignore[arg-type]
            log.warn(f"bad{evil}name", file=f"a{evil}b")
        logger.handlers[:], logger.propagate = [], True  # as under Airflow, whose handlers know nothing of us
        log.log(f"bad{evil}name")
    finally:
        logger.handlers[:], logger.propagate = before
    as_json, as_text = capsys.readouterr().err.splitlines()
    assert evil not in as_json + as_text + caplog.records[-1].getMessage()
    assert json.loads(as_json)["file"] == f"a{evil}b", "nothing is lost"


def test_a_text_may_keep_what_its_place_allows() -> None:
    assert log.printable("a\nb\tc", keep="\n") == "a\nb�c"
    assert json.loads(log.printable_json({"x": "😀\U000e0001"})) == {"x": "😀\U000e0001"}


def test_the_list_of_files_keeps_its_columns(capsys: pytest.CaptureFixture[str]) -> None:
    version = FileVersion(
        1, 1, Dataset.STREAMS, EVIL, "/x", "etag", 1, FILE_TIME, None, Status.REJECTED, reason="not_utf8"
    )
    _print_table(["name", "status", "reason"], [version])
    assert capsys.readouterr().out.splitlines()[1] == f"{MEEK}  rejected  not_utf8"


def test_an_error_keeps_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert _print_error(AppError("one\n\x1b[1mtwo")) == 1
    assert capsys.readouterr().err == "error: one\n�[1mtwo\n"
