"""Fixtures of all tests."""

import os
from collections.abc import Iterator

import pytest
from pyspark.sql import SparkSession

from tests.local.spark_submit import submit_environment, submit_options


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    """The application's own Spark session, one for all tests of a process."""
    os.environ.update(submit_environment(os.environ, short_run=True))
    os.environ["PYSPARK_SUBMIT_ARGS"] = " ".join([*submit_options(), "pyspark-shell"])
    from spark_app.session import build_session

    session = build_session(retention_days=30)
    yield session
    session.stop()
