"""What a person sees does nothing to the terminal."""

import json
import logging

import pytest

from spark_app import log
from spark_app.cli import _complain, _print_table
from spark_app.config.contracts import Dataset
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


def test_the_list_of_files_keeps_its_columns(capsys: pytest.CaptureFixture[str]) -> None:
    version = FileVersion(
        1, 1, Dataset.STREAMS, EVIL, "/x", "etag", 1, FILE_TIME, None, Status.REJECTED, reason="not_utf8"
    )
    _print_table(["name", "status", "reason"], [version])
    assert capsys.readouterr().out.splitlines()[1] == f"{MEEK}  rejected  not_utf8"


def test_an_error_keeps_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert _complain(AppError("one\n\x1b[1mtwo")) == 1
    assert capsys.readouterr().err == "error: one\n�[1mtwo\n"
