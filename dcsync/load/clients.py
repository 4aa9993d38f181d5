"""The clients of dlt: its connections, transactions and types. dlt is imported here, when a target is opened.

The clients get their credentials here and not from dlt's configuration. So dlt looks for none in the environment or in
files, and writes nothing to the home folder. Its pipelines, which report to their makers, are not used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from dcsync.core.extras import install_hint
from dcsync.errors import ConfigError

if TYPE_CHECKING:
    from dlt.common.destination import Destination, DestinationCapabilitiesContext
    from dlt.common.schema.typing import TColumnSchema
    from dlt.destinations.sql_client import SqlClientBase

#: A connection that was lost without a word ends within about a minute.
_KEEP_ALIVE = {
    "application_name": "dcsync",
    "keepalives_idle": "20",
    "keepalives_interval": "10",
    "keepalives_count": "4",
    "tcp_user_timeout": "60000",
}


def check_installed() -> None:
    """Raise `ConfigError` if dlt is not installed."""
    try:
        import dlt  # noqa: F401
    except ImportError:
        message = "loading into a database needs the package dlt, which is not installed"
        raise ConfigError(message, hint=install_hint("load")) from None


def postgres_client(address: str, dataset: str) -> SqlClientBase[Any]:
    """Return a client for PostgreSQL that is not connected yet."""
    from dlt.destinations.impl.postgres.configuration import PostgresCredentials
    from dlt.destinations.impl.postgres.factory import postgres
    from dlt.destinations.impl.postgres.sql_client import Psycopg2SqlClient

    credentials = PostgresCredentials()
    credentials.parse_native_representation(address)
    credentials.query = {**_KEEP_ALIVE, **(credentials.query or {})}
    return Psycopg2SqlClient(dataset, f"{dataset}_staging", credentials, _capabilities(postgres()))


def duckdb_client(address: str, dataset: str) -> SqlClientBase[Any]:
    """Return a client for a DuckDB file that is not open yet."""
    from dlt.destinations.impl.duckdb.configuration import DuckDbCredentials
    from dlt.destinations.impl.duckdb.factory import duckdb
    from dlt.destinations.impl.duckdb.sql_client import DuckDbSqlClient

    credentials = DuckDbCredentials(file_path(address))
    credentials.on_resolved()
    return DuckDbSqlClient(dataset, f"{dataset}_staging", credentials, _capabilities(duckdb()))


def sqlite_client(address: str) -> SqlClientBase[Any]:
    """Return a client for a SQLite file that is not open yet. Its tables have no dataset."""
    from dlt.destinations.impl.sqlalchemy.configuration import SqlalchemyCredentials
    from dlt.destinations.impl.sqlalchemy.db_api_client import SqlalchemyClient
    from dlt.destinations.impl.sqlalchemy.factory import sqlalchemy

    credentials = SqlalchemyCredentials(f"sqlite:///{file_path(address)}")
    assert credentials.engine is not None  # noqa: S101 - made by the property
    return SqlalchemyClient("main", "main", credentials, _capabilities(sqlalchemy()))


def s3_files(address: str) -> tuple[Any, str]:
    """Return the file system for an address such as `s3://bucket/folder`, and the path of the folder in it.

    `?endpoint_url=…&access_key_id=…&secret_access_key=…&region=…` names another server and the key. Without a key, the
    environment, the configuration of AWS or the role of the machine has it.
    """
    from dlt.common.configuration.specs import AwsCredentials
    from dlt.common.storages.configuration import FilesystemConfiguration
    from dlt.common.storages.fsspec_filesystem import fsspec_from_config

    parts = urlsplit(address)
    given = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
    unknown = sorted(given.keys() - {"endpoint_url", "access_key_id", "secret_access_key", "session_token", "region"})
    if unknown or not parts.hostname or parts.username is not None:
        message = f"an address in S3 is s3://BUCKET/FOLDER, and may have a key in its query, not {unknown}"
        raise ConfigError(message)
    credentials = AwsCredentials()
    credentials.endpoint_url = given.get("endpoint_url")
    credentials.region_name = given.get("region")
    if "access_key_id" in given:
        credentials.aws_access_key_id = given["access_key_id"]
        credentials.aws_secret_access_key = given.get("secret_access_key", "")
        credentials.aws_session_token = given.get("session_token")
    else:
        credentials.on_partial()
    folder = f"{parts.netloc}{unquote(parts.path)}".rstrip("/")
    files, _ = fsspec_from_config(FilesystemConfiguration(f"s3://{folder}", credentials))
    return files, folder


def _capabilities(destination: Destination[Any, Any]) -> DestinationCapabilitiesContext:
    # The public method would look for settings in the environment and in files.
    return destination._raw_capabilities()  # noqa: SLF001


def column_hint(kind: str) -> TColumnSchema:
    """Return what dlt calls a type of DuckDB."""
    column: TColumnSchema = {"nullable": True}
    match kind.partition("(")[0]:
        case "BIGINT":
            column["data_type"] = "bigint"
        case "DOUBLE":
            column["data_type"] = "double"
        case "BOOLEAN":
            column["data_type"] = "bool"
        case "DATE":
            column["data_type"] = "date"
        case "DECIMAL":
            width, _, scale = kind.partition("(")[2].rstrip(")").partition(",")
            column["data_type"], column["precision"], column["scale"] = "decimal", int(width), int(scale)
        case "TIMESTAMP WITH TIME ZONE":
            column["data_type"], column["timezone"] = "timestamp", True
        case _:
            column["data_type"] = "text"
    return column


def column_type(client: SqlClientBase[Any], kind: str) -> str:
    """Return the target's type for a type of DuckDB."""
    return client.capabilities.get_type_mapper().to_destination_type(column_hint(kind), {"name": "", "columns": {}})


def file_path(address: str) -> str:
    """Return the absolute path in an address such as `duckdb:///srv/acc.duckdb`."""
    parts = urlsplit(address)
    path = unquote(parts.path)
    if parts.netloc or not path.startswith("/") or path.startswith("//"):
        message = f"an address of a file begins with {parts.scheme}:/// (three slashes) and an absolute path"
        raise ConfigError(message)
    return path


@contextmanager
def native_errors() -> Iterator[None]:
    """Turn the errors of dlt into those of the driver."""
    from dlt.common.exceptions import DltException
    from dlt.destinations.exceptions import DatabaseException

    try:
        yield
    except DltException as error:
        cause = error.dbapi_exception if isinstance(error, DatabaseException) else error.__context__
        raise (cause or error) from None
