"""A pipeline of a test's own (bucket, application, tables, Airflow), and what it holds in plain values."""

from __future__ import annotations

import csv
import gzip
import html
import io
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
from aiosmtpd.controller import Controller

from kpi_common.conf_files import load_toml
from kpi_pipeline.files.claims import ClaimLedger, Entry
from kpi_pipeline.settings import load_delivery_settings
from tools.airflow_runs import Airflow, DagRun
from tools.airflow_tools import NEWEST, get_airflow
from tools.dag_job import QUICK_SETTINGS
from tools.dynamodb_local import free_port
from tools.emulated_aws import ROLE, EmulatedAws

Row = dict[str, Any]


class Mailbox:
    """A real SMTP server that keeps what it gets."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self._controller = Controller(self, hostname="127.0.0.1", port=free_port())

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 (the server's name)
        from email import message_from_bytes, policy

        self.messages.append(message_from_bytes(envelope.content, policy=policy.default))
        return "250 OK"

    def __enter__(self) -> Mailbox:
        self._controller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._controller.stop()

    @property
    def connection(self) -> dict[str, Any]:
        """The Airflow connection to this server."""
        port = self._controller.port
        plain = {"disable_tls": True, "disable_ssl": True}
        return {"conn_type": "smtp", "host": "127.0.0.1", "port": port, "extra": plain}

    def take(self) -> list[tuple[str, str]]:
        """Subject and text of all messages since the last call."""
        texts = [html.unescape(str(message.get_body().get_content())) for message in self.messages]
        found = [(str(message["Subject"]), text) for message, text in zip(self.messages, texts, strict=True)]
        self.messages.clear()
        return found


@dataclass
class Pipeline:
    """One bucket, one EMR application, tables with a prefix of their own."""

    aws: EmulatedAws
    mailbox: Mailbox
    folder: Path
    name: str
    airflow_name: str = NEWEST
    settings: Mapping[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.bucket = f"kpi-{self.name}"
        self.s3 = self.aws.client("s3")
        self.s3.create_bucket(
            Bucket=self.bucket, CreateBucketConfiguration={"LocationConstraint": self.s3.meta.region_name}
        )
        self.application = self.aws.create_application(self.name)
        self.variables = {
            "bucket_name": self.bucket,
            "emr_application_id": self.application,
            "execution_role_arn": ROLE,
            "music_streaming_pipeline": json.dumps({"job_environment": "local"}),
            "table_prefix": f"{self.name}-",
            "alert_emails": "team@example.com, on-call@example.com",
            **self.variables,
        }

    def airflow(self, aws: Mapping[str, str] | None = None, **settings: str) -> Airflow:
        """An Airflow with the pipeline's database; `aws` overrides parts of the AWS environment."""
        return Airflow(
            get_airflow(self.airflow_name),
            self.folder / f"airflow-{self.name}",
            {**self.aws.environment, **(aws or {})},
            self.variables,
            {"smtp_default": self.mailbox.connection},
            {**QUICK_SETTINGS, "DEFERRABLE": "false", "WAIT_SECONDS": "1", **self.settings, **settings},
        )

    def run(self, params: Mapping[str, Any] | None = None, aws: Mapping[str, str] | None = None) -> DagRun:
        """Run the DAG to its end."""
        return self.airflow(aws).run_dag(params)

    # --- files ---

    def put_folder(self, folder: Path) -> None:
        """Put files laid out as {streams,songs,users}/ into the source."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.s3.upload_file(str(path), self.bucket, f"raw/{path.relative_to(folder).as_posix()}")

    def put(self, name: str, rows: Iterable[Iterable[object]], columns: Iterable[str] = ()) -> None:
        """Put a CSV file into the source."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns or ("user_id", "track_id", "listen_time"))
        writer.writerows(rows)
        self.s3.put_object(Bucket=self.bucket, Key=f"raw/{name}", Body=text.getvalue().encode())

    def keys(self, prefix: str) -> list[str]:
        """All keys below a prefix, without it."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=f"{prefix}/")
        return sorted(entry["Key"][len(prefix) + 1 :] for page in pages for entry in page.get("Contents", []))

    def read(self, key: str) -> bytes:
        """An object's bytes."""
        return bytes(self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read())

    # --- what came of them ---

    def jobs(self) -> list[str]:
        """The states of all jobs that were ever started, the oldest first."""
        return [str(job["state"]) for job in self.aws.jobs(self.application)]

    def job_log(self) -> str:
        """What the newest job's driver wrote, as EMR put it into the bucket."""
        job = self.aws.jobs(self.application)[-1]
        place = f"logs/emr/applications/{self.application}/jobs/{job['jobRunId']}/SPARK_DRIVER"
        return "".join(gzip.decompress(self.read(f"{place}/{name}.gz")).decode() for name in ("stdout", "stderr"))

    def ledger(self) -> dict[str, Entry]:
        """ProcessedStreams by file name."""
        with self.environment():
            ledger = ClaimLedger(load_delivery_settings(prefix=f"{self.name}-"))
            return {entry.filename: entry for entry in ledger.with_status()}

    def items(self, table: str) -> list[Row]:
        """All items of a table in plain values."""
        from boto3.dynamodb.types import TypeDeserializer

        plain = TypeDeserializer().deserialize
        pages = self.aws.client("dynamodb").get_paginator("scan").paginate(TableName=f"{self.name}-{table}")
        return [{k: plain(v) for k, v in item.items()} for page in pages for item in page["Items"]]

    def listens(self) -> dict[str, int]:
        """Listens of each day, as the hourly KPIs in DynamoDB count them."""
        days: dict[str, int] = {}
        for item in self.items("HourlyKPIs"):
            days[item["date"]] = days.get(item["date"], 0) + int(item["listen_count"])
        return days

    def lake_rows(self, table: str) -> list[Row]:
        """The present rows of a Delta table: its log read by hand, its files by DuckDB."""
        files: set[str] = set()
        for key in self.keys(f"lake/{table}/_delta_log"):
            if key.endswith(".json"):
                for line in self.read(f"lake/{table}/_delta_log/{key}").splitlines():
                    action = json.loads(line)
                    files |= {action["add"]["path"]} if "add" in action else set()
                    files -= {action["remove"]["path"]} if "remove" in action else set()
        rows: list[Row] = []
        with tempfile.TemporaryDirectory() as folder, duckdb.connect() as database:
            database.execute("set timezone='UTC'")
            for number, path in enumerate(sorted(files)):
                local = Path(folder) / f"{number}.parquet"
                local.write_bytes(self.read(f"lake/{table}/{path}"))
                there = database.sql(f"from read_parquet('{local}')")
                found = there.project(", ".join(map(_utc, there.columns, map(str, there.types))))
                partition = dict(part.split("=", 1) for part in path.split("/")[:-1])
                rows += [{**dict(zip(found.columns, row, strict=True)), **partition} for row in found.fetchall()]
        return rows

    @contextmanager
    def environment(self) -> Any:
        """The AWS environment, for the helper package in this process."""
        before = dict(os.environ)
        os.environ.update(self.aws.environment)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


# The view of a table in conf/dynamodb/kpi_tables.toml has these columns straight from the lake's table.
SAME_COLUMNS = {
    "daily_genre": (
        "listen_date",
        "track_genre",
        "listen_count",
        "unique_listeners",
        "total_listening_time_ms",
        "avg_listening_time_per_user_s",
        "avg_track_duration_ms",
        "popularity_index",
        "most_popular_track_name",
    ),
    "top_songs": ("listen_date", "track_genre", "rank", "track_id", "track_name", "artists", "play_count"),
    "hourly": (
        "listen_date",
        "listen_hour",
        "listen_count",
        "unique_listeners",
        "unique_tracks",
        "track_diversity_index",
    ),
    "daily_country": ("listen_date", "country", "listen_count", "unique_listeners", "total_listening_time_ms"),
    "hourly_top_albums": ("listen_date", "listen_hour", "rank", "album_name", "play_count"),
}


def differences(pipeline: Pipeline) -> list[str]:
    """Where DynamoDB and the lake's KPI tables differ, a line for each row that only one has."""
    told = []
    for name, table in load_toml("dynamodb/kpi_tables.toml")["tables"].items():
        columns = SAME_COLUMNS[name]
        attributes = {entry["column"]: attribute for attribute, entry in table["attributes"].items()}
        delivered = {tuple(_cell(item[attributes[c]]) for c in columns) for item in pipeline.items(table["name"])}
        computed = {tuple(_cell(row[c]) for c in columns) for row in pipeline.lake_rows(f"kpis/{name}")}
        assert computed, f"the lake has no {name}"
        told += [f"{name}: only in DynamoDB: {row}" for row in sorted(delivered - computed)]
        told += [f"{name}: only in the lake: {row}" for row in sorted(computed - delivered)]
    return told


def _utc(column: str, kind: str) -> str:
    """A column as it is; an instant as its UTC clock, which Python can take without more packages."""
    return f'timezone(\'UTC\', "{column}") as "{column}"' if kind.endswith("TIME ZONE") else f'"{column}"'


def _cell(value: Any) -> str:
    if isinstance(value, datetime):
        return f"{value.replace(tzinfo=value.tzinfo or UTC).astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    if isinstance(value, int | Decimal):
        return format(Decimal(value).normalize(), "f")
    return str(value)
