"""The tables for SQLAlchemy Core. The numbered migrations create and change them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Moment(TypeDecorator[datetime]):
    """An aware time as microseconds since 1970. SQLite would return naive times, PostgreSQL aware ones."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:  # noqa: ARG002 - its signature
        """Store microseconds. A float would lose the last digits."""
        return None if value is None else (value - _EPOCH) // timedelta(microseconds=1)

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - its signature
        """Return an aware time in UTC."""
        return None if value is None else _EPOCH + timedelta(microseconds=value)


metadata = MetaData()

meta = Table(
    "meta",
    metadata,
    Column("key", String, primary_key=True),
    Column("value", Text, nullable=False),
)

account = Table(
    "account",
    metadata,
    Column("name", String, primary_key=True),
    Column("last_poll_at", Moment),
    Column("last_success_at", Moment),
    Column("conditional_works", Boolean),
    Column("etag_is_md5", Boolean),
    Column("bytes_per_second", Float),
    Column("error_code", String),
    Column("error", Text),
)

request = Table(
    "request",
    metadata,
    Column("account", String, primary_key=True),
    Column("id", String, primary_key=True),
    Column("description", Text, nullable=False),
    Column("slug", String, nullable=False),
    Column("is_delta", Boolean, nullable=False),
    Column("document", Text),
    Column("first_seen_at", Moment, nullable=False),
    Column("digest", String),  # see dcsync.manifest.checksums
)

job = Table(
    "job",
    metadata,
    Column("account", String, primary_key=True),
    Column("id", String, primary_key=True),
    Column("request", String, nullable=False),
    Column("state", String, nullable=False),
    Column("completed_at", Moment),
    Column("document", Text, nullable=False),
    Column("first_seen_at", Moment, nullable=False),
    Column("changed_at", Moment, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_try_at", Moment),
    Column("reason_code", String),
    Column("reason", Text),
    Column("folder", Text, unique=True),
    Column("published_at", Moment),
    Column("strategy", String),
    Column("calls", Integer),
    Column("fetched_bytes", BigInteger),
    Column("linked_bytes", BigInteger),
    Column("seconds", Float),
    Column("summary", Text),  # JSON of dcsync.core.summary, kept when the files are pruned
    Column("sidecar_sha256", String),
    Column("digest", String),  # over the row and its files, see dcsync.manifest.checksums
    # The files of a snapshot on disk: JSON with the sorted IDs of their `content`, by how they came.
    Column("files", Text),
    Column("holds_table", Boolean),
    Index("job_by_state", "account", "state"),
    Index("job_by_request", "account", "request", "completed_at"),
)

#: Each distinct stored version of a file once. Most files are hard links to the file of the day before.
content = Table(
    "content",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("digest", String, nullable=False, unique=True),  # over the other columns, see dcsync.manifest.contents
    Column("name", String, nullable=False),
    Column("original", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("crc32", BigInteger, nullable=False),
    Column("md5", String),
    Column("sha256", String, nullable=False),
    Column("etag", Text),
    Column("packed", BigInteger),
    Column("mtime_ns", BigInteger),
    Column("inode", String),  # as text: an inode number may use all 64 bits, and BigInteger has a sign
    Column("rows", BigInteger),
    Column("header", String),
    Column("kind", String),
)

#: Each header once. A table has the same header for years, and 260 headers a day would outgrow all other data.
header = Table(
    "header",
    metadata,
    Column("digest", String, primary_key=True),
    Column("names", Text, nullable=False),
    Column("is_cut", Boolean, nullable=False),
)

run = Table(
    "run",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("account", String, nullable=False),
    Column("started_at", Moment, nullable=False),
    Column("ended_at", Moment, nullable=False),
    Column("published", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("calls", Integer, nullable=False),
    Column("fetched_bytes", BigInteger, nullable=False),
    Column("linked_bytes", BigInteger, nullable=False),
    Column("error_code", String),
    Index("run_by_account", "account", "started_at"),
)

#: Standing alerts, and when they were last notified. The table has the name that 0.1 gave it.
alert = Table(
    "attention",
    metadata,
    Column("account", String, primary_key=True),
    Column("code", String, primary_key=True),
    Column("subject", String, primary_key=True),
    Column("message", Text, nullable=False),
    Column("hint", Text, nullable=False),
    Column("since", Moment, nullable=False),
    Column("told_at", Moment),
)

#: Each hook that an event asked for: `state` is due, done or failed.
hook_run = Table(
    "hook_run",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("account", String, nullable=False),
    Column("job", String),
    Column("kind", String, nullable=False),
    Column("argv", Text, nullable=False),
    Column("event", Text, nullable=False),
    Column("state", String, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("next_try_at", Moment),
    Column("ended_at", Moment),
    Column("exit_status", Integer),
    Column("error", Text),
    Index("hook_run_by_state", "state", "next_try_at"),
    Index("hook_run_by_job", "account", "job"),
)

#: The fencing number that may write a job, see `dcsync.cluster.fencing`.
claim = Table(
    "claim",
    metadata,
    Column("account", String, primary_key=True),
    Column("job", String, primary_key=True),
    Column("number", BigInteger, nullable=False),
)

#: The daemons of a shared manifest, one row for each start. `state` is the ID of the state folder.
host = Table(
    "host",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("state", String, nullable=False),
    Column("name", String, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("version", String, nullable=False),
    Column("role", String, nullable=False),
    Column("started_at", Moment, nullable=False),
    Column("seen_at", Moment, nullable=False),
    Column("doing", Text, nullable=False),
)

#: The queue's workers of a host.
host_worker = Table(
    "host_worker",
    metadata,
    Column("worker", BigInteger, primary_key=True, autoincrement=False),
    Column("host", Integer, nullable=False),
)

#: The calls of the last minute for each client ID: JSON, in microseconds of the database's clock (see `dcsync.api`).
quota = Table(
    "quota",
    metadata,
    Column("client", String, primary_key=True),
    Column("paused_until", BigInteger, nullable=False),
    Column("calls", Text, nullable=False),
)

#: Its row is locked while a refresh token is used (see `dcsync.auth`).
token_chain = Table("token_chain", metadata, Column("client", String, primary_key=True))

#: The content of a token store's files, by the variable part of the file name.
token_slot = Table(
    "token_slot",
    metadata,
    Column("client", String, primary_key=True),
    Column("slot", String, primary_key=True),
    Column("body", Text, nullable=False),
)

#: Tables of the running hosts, not of the mirror. They are not copied from one manifest to another.
OF_HOSTS = frozenset({"claim", "host", "host_worker", "quota", "token_chain", "token_slot"})
