"""Digests over the rows. SQLite's own checks find a broken structure, but not a changed byte in a value.

The digest of a content covers its row. The digest of a job covers its row and the digests of its contents, and does not
depend on their IDs. The digest of a request covers its row. `meta.seal` covers the schema, its version and the instance
ID. Each digest is written in the transaction that changes its rows. The mirror cannot restore the rows of other tables,
so these only have to be readable.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from dcsync.core.model import AccountName, JobId, RequestId
from dcsync.core.table import TableFacts
from dcsync.manifest.contents import in_batches, listed
from dcsync.manifest.rows import CONTENT_COLUMNS, content_digest, header_digest
from dcsync.manifest.schema import content as content_table
from dcsync.manifest.schema import header as header_table
from dcsync.manifest.schema import job as job_table
from dcsync.manifest.schema import meta, metadata
from dcsync.manifest.schema import request as request_table

#: The digest under this key can never cover anything else. Otherwise a manifest of a newer dcsync would look damaged to
#: this one. A version with another digest must use another key and remove this one.
_SEAL = "seal"
_SEALED = frozenset({"job", "content", "request"})


def _columns(table: sa.Table) -> str:
    return ", ".join(f'"{column.name}"' for column in table.columns if column.name not in {"digest", "files"})


_JOB = f"SELECT account, id, digest, files, {_columns(job_table)} FROM job"  # noqa: S608 - names of our own columns
_CONTENT = f"SELECT id, digest, {', '.join(CONTENT_COLUMNS)} FROM content"  # noqa: S608 - the same
_REQUEST = f"SELECT digest, {_columns(request_table)} FROM request"  # noqa: S608 - the same

_SEAL_JOB = (
    sa.update(job_table)
    .where(job_table.c.account == sa.bindparam("in_account"), job_table.c.id == sa.bindparam("job"))
    .values(digest=sa.bindparam("sealed"))
)


async def seal_job(connection: AsyncConnection, account: AccountName, job: JobId) -> None:
    """Write the digest of a job after its row or its files changed."""
    await seal_jobs(connection, account, [job])


async def seal_jobs(connection: AsyncConnection, account: AccountName, jobs: Sequence[JobId]) -> None:
    """Write the digests of jobs, few enough for one statement (`in_batches`), after their rows or files changed."""
    here = sa.text(f"{_JOB} WHERE account = :account AND id IN :jobs").bindparams(sa.bindparam("jobs", expanding=True))
    rows = (await connection.execute(here, {"account": account, "jobs": jobs})).all()
    digests: dict[int, str] = {}
    for batch in in_batches({number for row in rows for _, number in listed(row.files)}):
        contents = sa.select(content_table.c.id, content_table.c.digest).where(content_table.c.id.in_(batch))
        digests |= dict((await connection.execute(contents)).all())
    sealed = [_sealed(row, digests) for row in rows]
    if sealed:
        await connection.execute(_SEAL_JOB, sealed)


async def seal_request(connection: AsyncConnection, account: AccountName, request: RequestId) -> None:
    """Write the digest of a request after its row changed."""
    values = {"account": account, "id": request}
    row = (await connection.execute(sa.text(f"{_REQUEST} WHERE account = :account AND id = :id"), values)).one()
    await connection.execute(
        sa.update(request_table)
        .where(request_table.c.account == account, request_table.c.id == request)
        .values(digest=_digest(tuple(row)[1:]))
    )


async def seal_meta(connection: AsyncConnection) -> None:
    """Write the digest of schema, version and instance after any of them changed."""
    digest = await connection.run_sync(_meta_digest)
    await connection.execute(sa.delete(meta).where(meta.c.key == _SEAL))
    await connection.execute(sa.insert(meta).values(key=_SEAL, value=digest))


async def seal_all(connection: AsyncConnection) -> None:
    """Seal every row and the schema. A migration may have changed all of them."""
    await connection.run_sync(_seal_jobs)
    requests = await connection.execute(sa.select(request_table.c.account, request_table.c.id))
    for account, request in requests.all():
        await seal_request(connection, account, request)
    await seal_meta(connection)


def _seal_jobs(connection: sa.Connection) -> None:
    digests = {row[0]: row[1] for row in connection.execute(sa.text("SELECT id, digest FROM content"))}
    sealed = [_sealed(row, digests) for row in connection.execute(sa.text(_JOB)).all()]
    if sealed:
        connection.execute(_SEAL_JOB, sealed)


def broken_meta(connection: sa.Connection) -> str | None:
    """Return the damage of schema, version or instance. None if they are sound, or not sealed yet.

    Call this first: a version with one changed bit would look like that of a newer dcsync.
    """
    if connection.scalar(sa.text(_has_meta(connection))) is None:
        return None
    sealed = connection.scalar(sa.text("SELECT value FROM meta WHERE key = 'seal'"))
    if sealed is None or sealed == _meta_digest(connection):
        return None
    return "the schema, its version or the instance ID does not match its checksum"


def broken_row(connection: sa.Connection) -> str | None:
    """Return the damage of the rows, or None."""
    for row in connection.execute(sa.text(_REQUEST)):
        if row[0] is not None and row[0] != _digest(tuple(row)[1:]):
            return "a row of request does not match its checksum"
    return _broken_job(connection) or _broken_header(connection) or _unreadable_row(connection)


def _broken_job(connection: sa.Connection) -> str | None:
    digests = {}
    for number, digest, *values in connection.execute(sa.text(_CONTENT)):
        digests[number] = digest
        if digest != content_digest(values):
            return "a row of content does not match its checksum"
    for job in connection.execute(sa.text(_JOB)).all():
        try:
            ids = {number for _, number in listed(job.files)}
        except (ValueError, TypeError, AttributeError):
            return "a row of job cannot be read"
        if not ids <= digests.keys():
            return "a file of a job is missing"
        if job.digest is not None and job.digest != _job_digest(job, digests):
            return "a row of job or of its files does not match its checksum"
    return None


def _broken_header(connection: sa.Connection) -> str | None:
    """Check headers: the key of a header is its digest."""
    for digest, header, is_cut in connection.execute(sa.select(header_table)).all():
        try:
            facts = TableFacts(header=tuple(json.loads(header)), rows=None, is_cut=is_cut)
        except (ValueError, TypeError):
            return "a row of header cannot be read"
        if header_digest(facts) != digest:
            return "a row of header does not match its checksum"
    return None


def _unreadable_row(connection: sa.Connection) -> str | None:
    """Read every row of the tables without digests, with the types of the code."""
    for table in metadata.sorted_tables:
        if table.name not in _SEALED:
            try:
                for _ in connection.execute(sa.select(table)):
                    pass
            except (ValueError, TypeError, OverflowError):
                return f"a row of {table.name} cannot be read"
    return None


def _meta_digest(connection: sa.Connection) -> str:
    parts = [repr(tuple(row)) for row in connection.execute(sa.text(_schema(connection)))]
    parts += [repr(tuple(row)) for row in connection.execute(sa.text("SELECT version_num FROM alembic_version"))]
    instance = connection.execute(sa.text("SELECT key, value FROM meta WHERE key = 'instance'"))
    return _digest((), [*parts, *(repr(tuple(row)) for row in instance)])


def _is_postgres(connection: sa.Connection | AsyncConnection) -> bool:
    return connection.dialect.name == "postgresql"


def _has_meta(connection: sa.Connection) -> str:
    if _is_postgres(connection):
        return "SELECT 1 WHERE to_regclass('meta') IS NOT NULL"
    return "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'meta'"


def _schema(connection: sa.Connection) -> str:
    """Return the query for the schema. In PostgreSQL, the columns of our tables without those of the queue."""
    if _is_postgres(connection):
        names = ", ".join(f"'{name}'" for name in sorted(metadata.tables))
        return (
            "SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns "  # noqa: S608 - ours
            f"WHERE table_schema = current_schema() AND table_name IN ({names}) "
            'ORDER BY table_name COLLATE "C", ordinal_position'
        )
    return "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name"


def _sealed(row: sa.Row[Any], digests: Mapping[int, str]) -> dict[str, str]:
    """Return the values of `_SEAL_JOB` for a row of `_JOB`."""
    return {"in_account": row.account, "job": row.id, "sealed": _job_digest(row, digests)}


def _job_digest(row: sa.Row[Any], digests: Mapping[int, str]) -> str:
    """Return the digest of a row of `_JOB` and its files."""
    return _digest(tuple(row)[4:], sorted(f"{how} {digests[number]}" for how, number in listed(row.files)))


def _digest(row: Sequence[Any], texts: Iterable[str] = ()) -> str:
    # SQLite returns numbers for booleans, PostgreSQL does not.
    values = tuple(int(value) if isinstance(value, bool) else value for value in row)
    digest = hashlib.sha256(repr(values).encode("utf-8", "surrogatepass"))
    for text in texts:
        digest.update(b"\n" + text.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
