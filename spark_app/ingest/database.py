"""Songs and users from a database: a table, read by JDBC, becomes a version of a file, `ops/database/…` in the lake.

From there on it is a file like any other: the same contract, quarantine and ledger. As it keeps its name, what it says
now replaces what it said before, and rows that were deleted in the database are gone with their old version. A read
that gives the same rows gives the same bytes, which are no new version.
"""

from __future__ import annotations

import gzip
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from kpi_common.aws import new_client, plain_aws_errors
from kpi_common.contracts import Contract, Dataset, load_contract
from kpi_common.files import join, storage_for
from kpi_common.log import log, warn
from spark_app.config.secrets import read_secret
from spark_app.config.settings import Settings
from spark_app.errors import AppError, UsageError
from spark_app.ingest.discovery import Listing
from spark_app.run.context import Context
from spark_app.run.files import InputFile

_URL = re.compile(
    r"jdbc:(?P<kind>postgresql|mysql|mariadb)://(?P<hosts>[^/?@]+)/(?P<database>[^/?]+)(?P<options>\?.*)?"
)
_TABLE = re.compile(r"[A-Za-z_][\w$]*(\.[A-Za-z_][\w$]*){0,2}")
_CREDENTIALS = re.compile(r"[?&;](user(name)?|[^=&]*(password|passphrase|secret|token)[^=&]*)=", re.IGNORECASE)
_PORTS = {"postgresql": 5432, "mysql": 3306, "mariadb": 3306}
_ROWS_PER_FETCH = "10000"
_SOCKET_TIMEOUT_S = 600
_MOST_PARTS = 32
_NOT_READ = {"user_name"}  # of the contracts, but never staged: people's names stay in the database
_TRIES = 3  # of a read in parts during which the table changes


class DatabaseError(AppError):
    """A database can't be reached or read; nothing of it was taken in."""

    code = "database"


@dataclass(frozen=True)
class Source:
    """A table of songs or users in a database."""

    dataset: Dataset
    url: str
    table: str

    @property
    def parts(self) -> Mapping[str, str]:
        """Parts of the URL: kind, hosts, database, options."""
        found = _URL.fullmatch(self.url)
        if found is None:
            raise UsageError(
                f"{self.url.partition('?')[0]}: expected jdbc:postgresql://host:port/database, jdbc:mysql://… or "
                "jdbc:mariadb://…, without user or password"
            )
        return found.groupdict(default="")

    @property
    def name(self) -> str:
        """Name of the file that it becomes."""
        hosts, database = (re.sub(r"[^A-Za-z0-9.-]", "_", self.parts[part]) for part in ("hosts", "database"))
        return f"{self.dataset}/jdbc/{hosts}/{database}/{self.table}.csv.gz"


@dataclass(frozen=True)
class Extent:
    """What a table holds, as far as one query tells: its rows, the bounds of its key, and when it was last changed."""

    rows: int
    first: int | None
    last: int | None
    changes: str


def sources(settings: Settings) -> list[Source]:
    """Return the tables that the settings name.

    Raises:
        UsageError: a URL, a table or a group of settings that is not whole; before any work.
    """
    named = [
        Source(Dataset.SONGS, settings.songs_source, settings.songs_table),
        Source(Dataset.USERS, settings.users_source, settings.users_table),
    ]
    found = [source for source in named if source.url]
    for source in found:
        if _CREDENTIALS.search(source.url) or "@" in source.url:
            raise UsageError(
                f"{source.dataset}_source: no user, password or token in a URL: name them in a secret (database_secret)"
            )
        if not _TABLE.fullmatch(source.table):
            raise UsageError(f"setting `{source.dataset}_table` is {source.table!r}; allowed is: [schema.]table")
        if "," in source.parts["hosts"] and settings.database_iam_user:
            raise UsageError(f"{source.url}: an IAM token is for one host (database_iam_user)")
    if found and bool(settings.database_secret) == bool(settings.database_iam_user):
        raise UsageError(
            f"{found[0].dataset}_source is set: set one of database_secret (a secret of Secrets Manager, or a "
            "file) and database_iam_user too"
        )
    return found


def with_databases(context: Context, listing: Listing) -> Listing:
    """Add the files that the settings' databases become, as they are now.

    Raises:
        DatabaseError: a database can't be read.
    """
    files = [_read(context, source) for source in sources(context.settings)]
    return replace(listing, files=tuple(sorted([*listing.files, *files], key=lambda file: file.order)))


def _read(context: Context, source: Source) -> InputFile:
    """Bring the file of a table up to date and return it as it then is."""
    path = f"ops/database/{source.name}"
    uri, storage = join(context.lake.uri, path), storage_for(context.lake.uri)
    options = _options(source, context.settings)
    try:
        table = context.spark.read.format("jdbc").options(**options, dbtable=source.table).load()
        contract = load_contract(source.dataset)
        names = [name for name in contract.names if name in table.columns and name not in _NOT_READ]
        if not names:
            raise DatabaseError(f"{source.url}: the table {source.table} has no column of {', '.join(contract.names)}")
        extent = _extent(context, source, options, table, contract)
        seen = json.dumps([names, str(extent)]).encode()
        known = context.settings.database_updated_at and storage.read(f"{uri}.seen") == seen
        if not (known and storage.find(uri)):
            content = _content(context, source, options, names, extent)
            if storage.read(uri) != content:
                context.lake.write(path, content)
            context.lake.write(f"{path}.seen", seen)
        log("database", table=source.table, dataset=source.dataset, rows=extent.rows, unchanged=bool(known))
    except (Py4JJavaError, PySparkException) as error:
        raise DatabaseError(f"{source.url}: {source.table}: {_reason(error, options['password'])}") from None
    found = storage.find(uri)
    if found is None:
        raise DatabaseError(f"{uri}: is gone, right after it was written")
    return InputFile(source.dataset, source.name, found.uri, found.size, found.modified_at, found.etag, found.stat)


def _content(context: Context, source: Source, options: Mapping[str, str], names: list[str], extent: Extent) -> bytes:
    """Return a table's rows as CSV, gzip, ordered by their key.

    One query sees the table as of one moment. A large table is read by several: again, if it changes meanwhile.
    """
    parts = min(_MOST_PARTS, 1 + extent.rows // context.settings.database_rows_per_read)
    key = _key(load_contract(source.dataset), names)
    for _ in range(_TRIES):
        reader = context.spark.read.format("jdbc").options(**options, dbtable=source.table)
        if parts > 1 and key and extent.first is not None:
            bounds = {"partitionColumn": key, "lowerBound": str(extent.first), "upperBound": str(extent.last)}
            reader = reader.options(**bounds, numPartitions=parts)
        table = reader.load()
        content = _as_csv(context, source, table.select(*(_as_text(table, name) for name in names)), key)
        if parts == 1:
            return content
        before, extent = extent, _extent(context, source, options, table, load_contract(source.dataset))
        if extent == before:
            return content
        warn("a table changed while it was read; reading it again", table=source.table)
    raise DatabaseError(
        f"{source.url}: {source.table} changed each of {_TRIES} times while it was read: read a replica or a snapshot, "
        "or set database_rows_per_read above its rows, so that one query sees all of it"
    )


def _key(contract: Contract, names: list[str]) -> str | None:
    """Return the first column of whole numbers: by ranges of it, large tables are read in parts."""
    return next((column.name for column in contract.columns if column.type == "bigint" and column.name in names), None)


def _extent(
    context: Context, source: Source, options: Mapping[str, str], table: DataFrame, contract: Contract
) -> Extent:
    key, changed = _key(contract, table.columns), context.settings.database_updated_at
    if changed and changed not in table.columns:
        raise DatabaseError(f"{source.url}: {source.table} has no column {changed} (setting database_updated_at)")
    bounds = f"min({key}) AS lo, max({key}) AS hi" if key else "NULL AS lo, NULL AS hi"
    seconds = "extract(epoch FROM {0})" if source.parts["kind"] == "postgresql" else "unix_timestamp({0})"
    # The sum, too: a transaction may end after another that began later.
    changes = (
        f"max({changed}) AS newest, sum({seconds.format(changed)}) AS total" if changed else "0 AS newest, 0 AS total"
    )
    query = f"(SELECT count(*) AS n, {bounds}, {changes} FROM {source.table}) extent"  # noqa: S608 (checked names)
    (row,) = context.spark.read.format("jdbc").options(**options, dbtable=query).load().collect()
    whole = all(isinstance(value, int) for value in (row[1], row[2]))
    return Extent(row[0], row[1] if whole else None, row[2] if whole else None, f"{row[3]} {row[4]}")


def _as_text(table: DataFrame, name: str) -> Column:
    column = F.col(name)
    if isinstance(table.schema[name].dataType, T.ArrayType):  # such as PostgreSQL's text[]
        return F.array_join(column, ";").alias(name)
    return column.cast("string").alias(name)


def _as_csv(context: Context, source: Source, rows: DataFrame, key: str | None) -> bytes:
    folder = f"ops/database/{source.dataset}/parts"
    context.lake.delete_folder(folder)  # of a run that was killed
    place = join(context.lake.uri, folder, context.run_id)
    order = [F.col(key).cast("bigint")] if key else []
    ordered = rows.sortWithinPartitions(*order, *rows.columns)
    ordered.write.csv(place, compression="gzip", escape='"', nullValue="", emptyValue="", lineSep="\n")
    content = io.BytesIO()
    content.write(gzip.compress(f"{','.join(rows.columns)}\n".encode(), mtime=0))
    storage = storage_for(place)
    for part in sorted(stored.uri for stored in storage.list_files(place) if stored.relative.startswith("part-")):
        content.write(storage.read(part) or b"")
    context.lake.delete_folder(folder)
    return content.getvalue()


# --- how to connect ---


def _options(source: Source, settings: Settings) -> dict[str, str]:
    """Return options of Spark's JDBC source: with TLS, unless the URL itself says otherwise."""
    kind, url, ca_file = source.parts["kind"], source.url, settings.database_ca_file
    if kind == "postgresql":
        options = {"driver": "org.postgresql.Driver", "sslmode": "require", "socketTimeout": str(_SOCKET_TIMEOUT_S)}
        options |= {"ApplicationName": "music-streaming-kpis", "tcpKeepAlive": "true"}
        options |= {"sslmode": "verify-full", "sslrootcert": ca_file} if ca_file else {}
    else:  # MariaDB's driver, under the name by which Spark knows MySQL's dialect
        options = {"driver": "org.mariadb.jdbc.Driver", "permitMysqlScheme": "true", "sslMode": "trust"}
        options |= {"sslMode": "verify-full", "serverSslCert": ca_file} if ca_file else {}
        options |= {"socketTimeout": str(_SOCKET_TIMEOUT_S * 1000)}
        url = re.sub("^jdbc:mariadb:", "jdbc:mysql:", url)
        url += ("&" if "?" in url else "?") + "permitMysqlScheme"
    said = source.parts["options"].lower()
    options = {name: value for name, value in options.items() if f"{name.lower()}=" not in said}
    user, password = _credentials(source, settings)
    return {**options, "url": url, "user": user, "password": password, "fetchsize": _ROWS_PER_FETCH}


def _credentials(source: Source, settings: Settings) -> tuple[str, str]:
    """Return user and password: of the secret, in the form that RDS gives it, or a token of IAM."""
    secret = settings.database_secret
    if not secret:
        host, _, port = source.parts["hosts"].partition(":")
        with plain_aws_errors("IAM token for the database"):
            token: str = new_client("rds").generate_db_auth_token(
                DBHostname=host, Port=int(port or _PORTS[source.parts["kind"]]), DBUsername=settings.database_iam_user
            )
        return settings.database_iam_user, token
    data = read_secret("database_secret", secret)
    try:
        content: dict[str, Any] = json.loads(data)
        return str(content["username"]), str(content["password"])
    except (ValueError, KeyError, TypeError):  # without its text
        raise UsageError(f'database_secret {secret}: expected JSON with "username" and "password"') from None


def _reason(error: Exception, password: str) -> str:
    """Say in one line what the driver said, without the password."""
    text = str(error)
    if isinstance(error, Py4JJavaError):
        cause = error.java_exception
        while "SQL" not in cause.getClass().getSimpleName() and cause.getCause() is not None:
            cause = cause.getCause()
        text = str(cause.getMessage() or cause)
        if cause.getClass().getSimpleName() == "ClassNotFoundException":
            text = f"{text}: no JDBC driver; give its jar (docker/jars.txt, purpose jdbc) to spark-submit by --jars"
    return text.replace(password, "***").strip().partition("\n")[0][:1000]
