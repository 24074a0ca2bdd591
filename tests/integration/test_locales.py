"""The main job where machine, Java and Python have another language, region or encoding: the same numbers and names."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from tests.integration.application import Application, NewFile
from tests.integration.bad_files import HEADERS, rows
from tools.spark_submit import submit_command, submit_environment

pytestmark = [pytest.mark.integration, pytest.mark.long]

MODIFIED = datetime(2024, 12, 1, tzinfo=UTC)
TURKISH = "-Duser.language=tr -Duser.country=TR -Dfile.encoding=ISO-8859-9"
ARABIC = "-Duser.language=ar -Duser.country=EG -Duser.variant=u-nu-arab -Dfile.encoding=windows-1256"


@pytest.mark.parametrize(
    "machine",
    [
        {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "JAVA_TOOL_OPTIONS": TURKISH},
        {"LC_ALL": "POSIX", "PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "tr_TR.ISO-8859-9", "LANGUAGE": "tr"},
        {"LANG": "ar_EG", "JAVA_TOOL_OPTIONS": ARABIC},
    ],
    ids=["C, Java in Turkish", "POSIX, Python in Latin-1", "Turkish", "Arabic"],
)
def test_a_run_has_the_same_result_whatever_the_machine_speaks(
    spark: SparkSession, tmp_path: Path, machine: Mapping[str, str]
) -> None:
    application = Application(spark, tmp_path / "entr\u00e9e", tmp_path / "\u0130lak", {})
    for name, records in {
        "songs/a.csv": ['1,t1,I\u0307ILIK;\u0130nce Saz,"\u0130I\u0131i",50,1000,\u0131I\u0130i'],
        "users/a.csv": ["1,Ann,2024-01-01"],
        "streams/\u00e9coutes \u0130.csv": ["1,t1,2024-02-29 00:00:00", "1,t1,2024-02-30 00:00:00"] * 30,
    }.items():
        NewFile(name, rows(HEADERS[name.partition("/")[0]], records), MODIFIED).write(application.input)
    arguments = ["run", "--input", str(application.input), "--lake", str(application.lake)]
    arguments += ["--set", "max_quarantined_share=0.5"]
    # As ./build.sh and the image do it: what the application needs is set over what the machine has.
    environment = submit_environment({**os.environ, **machine}, short_run=True)
    done = subprocess.run(
        submit_command(arguments), env=environment, capture_output=True, text=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "deprecated" not in done.stderr
    (file,) = (file for file in application.result()["files"] if file["dataset"] == "streams")
    assert file["name"] == "streams/\u00e9coutes \u0130.csv"
    assert (file["rows"], file["valid"], file["duplicates"], file["quarantined"]) == (60, 1, 29, 30)
    assert application.rows("kpis/daily_genre", ("listen_date", "track_genre", "most_popular_track_name")) == [
        (date(2024, 2, 29), "\u0131I\u0130i", "\u0130I\u0131i")
    ]
    artists = application.rows("kpis/hourly_top_artists", ("rank", "artist"))
    assert sorted(artists) == [(1, "I\u0307ILIK".replace("I\u0307", "\u0130")), (2, "\u0130nce Saz")]
    entries = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert all("\ufffd" not in str(entry) for entry in entries)
    assert any("result.json" in str(entry.get("result")) for entry in entries)
