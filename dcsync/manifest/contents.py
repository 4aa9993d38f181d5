"""The files of snapshots. Each distinct file is stored once, and the row of a snapshot lists its files.

Most files of a snapshot are hard links to those of the day before: name, content, inode and times are the same. They
share one row of `content`. A job's row has the IDs of its files as JSON, sorted, by how they came:
`{"fetched": [7], "linked": [1, 2]}`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from dcsync.core.completeness import holds_rows
from dcsync.core.kinds import parse_kind
from dcsync.core.model import AccountName, JobId, RequestId, StoredFile
from dcsync.core.names import clash_key
from dcsync.core.table import TableKind
from dcsync.errors import ManifestCorrupt, ManifestError
from dcsync.manifest import older
from dcsync.manifest.rows import CONTENT_COLUMNS, content_digest, content_row, header_digest, stored_file
from dcsync.manifest.schema import content as content_table
from dcsync.manifest.schema import header as header_table
from dcsync.manifest.schema import job as job_table

#: Well below the number of values that SQLite accepts in one statement, 32,766. A row of a content has 14.
VALUES_AT_ONCE = 500


async def store_files(connection: AsyncConnection, files: Sequence[StoredFile]) -> dict[str, object]:
    """Store the files of a snapshot that are new, and return the columns of its job that list all of them."""
    if len({clash_key(stored.name) for stored in files}) != len(files):
        # docs/project/design.md, Names (N): a snapshot never has two names that some file system treats as equal.
        message = "a snapshot cannot have two files of one name"
        raise ManifestError(message)
    await _store_headers(connection, files)
    rows = [content_row(stored) for stored in files]
    digests = [content_digest(row.values()) for row in rows]
    known = await _ids(connection, digests)
    new = {digest: row for digest, row in zip(digests, rows, strict=True) if digest not in known}
    if new:
        values = [{"digest": digest, **row} for digest, row in new.items()]
        await connection.execute(_insert_unless_there(connection, content_table), values)
        known |= await _ids(connection, new)
    ids: defaultdict[str, list[int]] = defaultdict(list)
    for stored, digest in zip(files, digests, strict=True):
        ids[stored.how.value].append(known[digest])
    return {
        "files": json.dumps({how: sorted(numbers) for how, numbers in sorted(ids.items())}) if files else None,
        "holds_table": holds_rows(stored.original for stored in files) if files else None,
    }


async def drop_unused(connection: AsyncConnection) -> None:
    """Delete the contents that no snapshot lists."""
    lists = await connection.scalars(sa.select(job_table.c.files).where(job_table.c.files.is_not(None)))
    used = {number for text in lists for _, number in listed(text)}
    unused = {*await connection.scalars(sa.select(content_table.c.id))} - used
    for batch in in_batches(unused):
        await connection.execute(sa.delete(content_table).where(content_table.c.id.in_(batch)))


async def files_of(connection: AsyncConnection, account: AccountName, job: JobId) -> tuple[StoredFile, ...]:
    """Return the files of a snapshot, by their name on disk."""
    return (await files_of_jobs(connection, account, [job])).get(job, ())


async def files_of_jobs(
    connection: AsyncConnection, account: AccountName, jobs: Collection[JobId]
) -> dict[JobId, tuple[StoredFile, ...]]:
    """Return the files of snapshots, by their name on disk. Jobs without files are left out."""
    if await older.is_older(connection):
        return await older.files_of_jobs(connection, account, jobs)
    lists = await _lists(connection, account, jobs)
    contents = await _contents(connection, {number for text in lists.values() for _, number in listed(text)})
    # Sorted in Python, because the collation of a database may differ from the order of characters.
    return {
        job: tuple(
            sorted((stored_file(contents[number], how) for how, number in listed(text)), key=lambda stored: stored.name)
        )
        for job, text in lists.items()
    }


async def kinds_of_jobs(
    connection: AsyncConnection, account: AccountName, jobs: Collection[JobId]
) -> set[tuple[str, TableKind | None]]:
    """Return Autodesk's name and the recorded kind of every file in snapshots, each pair once."""
    if await older.is_older(connection):
        files = await older.files_of_jobs(connection, account, jobs)
        return {(stored.original, stored.kind) for stored_files in files.values() for stored in stored_files}
    ids: set[int] = set()
    for text in (await _lists(connection, account, jobs)).values():
        ids.update(*json.loads(text).values())
    found: set[tuple[str, TableKind | None]] = set()
    query = sa.select(content_table.c.original, content_table.c.kind).distinct()
    for batch in in_batches(ids):
        rows = await connection.execute(query.where(content_table.c.id.in_(batch)))
        found |= {(json.loads(original), parse_kind(kind)) for original, kind in rows}
    return found


async def files_like(
    connection: AsyncConnection, which: sa.ColumnElement[bool], jobs: sa.Select[Any]
) -> Sequence[tuple[sa.Row[Any], StoredFile]]:
    """Return the files whose content meets a condition, each with the row of its job, in the order of `jobs`.

    `jobs` selects at least the column `files`.
    """
    wanted = {*await connection.scalars(sa.select(content_table.c.id).where(which))}
    contents = await _contents(connection, wanted)
    return [
        (row, stored_file(contents[number], how))
        for row in (await connection.execute(jobs.where(job_table.c.files.is_not(None)))).all()
        for how, number in listed(row.files)
        if number in wanted
    ]


async def headers_of_tables(
    connection: AsyncConnection, account: AccountName
) -> Mapping[tuple[RequestId, str], Collection[str | None]]:
    """Return the digests of all headers that each file has in the snapshots of a request, by its name on disk."""
    if await older.is_older(connection):
        return await older.headers_of_tables(connection, account)
    ids: defaultdict[RequestId, set[int]] = defaultdict(set)
    query = sa.select(job_table.c.request, job_table.c.files)
    rows = await connection.execute(query.where(job_table.c.account == account, job_table.c.files.is_not(None)))
    for request, text in rows:
        # Most of the IDs are those of the snapshot before. There may be millions.
        ids[RequestId(request)].update(*json.loads(text).values())
    contents: dict[int, tuple[str, str | None]] = {}
    query_contents = sa.select(content_table.c.id, content_table.c.name, content_table.c.header)
    for batch in in_batches({number for numbers in ids.values() for number in numbers}):
        found = await connection.execute(query_contents.where(content_table.c.id.in_(batch)))
        contents |= {number: (name, header) for number, name, header in found}
    headers: defaultdict[tuple[RequestId, str], set[str | None]] = defaultdict(set)
    for request, numbers in ids.items():
        for name, header in map(contents.__getitem__, numbers & contents.keys()):
            headers[request, name].add(header)
    return headers


async def headers_in_order(
    connection: AsyncConnection, account: AccountName, names: Collection[str], below: Mapping[RequestId, str]
) -> Mapping[tuple[RequestId, str], Sequence[tuple[str, str | None]]]:
    """Return the digest of the header of each named file in each snapshot, with the snapshot's folder, in its order.

    `below` has the folder of each data request. Folders are those below it, and other snapshots are left out. Of
    several snapshots in a row with the same header, only the first one is returned.
    """
    if await older.is_older(connection):
        return {}
    wanted: dict[int, tuple[str, str | None]] = {}
    contents = sa.select(content_table.c.id, content_table.c.name, content_table.c.header)
    for batch in in_batches(names):
        found = await connection.execute(contents.where(content_table.c.name.in_(batch)))
        wanted |= {number: (name, header) for number, name, header in found}
    runs: defaultdict[tuple[RequestId, str], list[tuple[str, str | None]]] = defaultdict(list)
    jobs = sa.select(job_table.c.request, job_table.c.folder, job_table.c.files).where(
        job_table.c.account == account, job_table.c.files.is_not(None), job_table.c.folder.is_not(None)
    )
    rows = [tuple(row) for row in await connection.execute(jobs) if row.request in below]
    for request, folder, text in sorted(rows):
        prefix = f"{below[RequestId(request)]}/"
        if folder.startswith(prefix):
            for name, header in (wanted[number] for _, number in listed(text) if number in wanted):
                of_table = runs[RequestId(request), name]
                if not of_table or of_table[-1][1] != header:
                    of_table.append((folder.removeprefix(prefix), header))
    return runs


def listed(files: str | None) -> Iterator[tuple[str, int]]:
    """Return what the row of a job lists: how each file came, and the ID of its content."""
    for how, numbers in json.loads(files or "{}").items():
        for number in numbers:
            yield how, number


async def _lists(connection: AsyncConnection, account: AccountName, jobs: Collection[JobId]) -> dict[JobId, str]:
    found: dict[JobId, str] = {}
    for batch in in_batches(jobs):
        here = sa.and_(job_table.c.account == account, job_table.c.id.in_(batch), job_table.c.files.is_not(None))
        rows = await connection.execute(sa.select(job_table.c.id, job_table.c.files).where(here))
        found |= {JobId(job): text for job, text in rows}
    return found


async def _ids(connection: AsyncConnection, digests: Collection[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for batch in in_batches(digests):
        query = sa.select(content_table.c.digest, content_table.c.id).where(content_table.c.digest.in_(batch))
        found |= dict((await connection.execute(query)).all())
    return found


async def _contents(connection: AsyncConnection, ids: Collection[int]) -> dict[int, tuple[Any, ...]]:
    query = sa.select(
        content_table.c.id,
        *(content_table.c[name] for name in CONTENT_COLUMNS),
        header_table.c.names,
        header_table.c.is_cut,
    ).select_from(content_table.join(header_table, header_table.c.digest == content_table.c.header, isouter=True))
    found: dict[int, tuple[Any, ...]] = {}
    for batch in in_batches(ids):
        for row in await connection.execute(query.where(content_table.c.id.in_(batch))):
            found[row[0]] = tuple(row[1:])
    if len(found) != len(ids):
        message = "the manifest is damaged: a file of a snapshot is missing in it"
        raise ManifestCorrupt(message)
    return found


async def _store_headers(connection: AsyncConnection, files: Sequence[StoredFile]) -> None:
    headers = {header_digest(stored.table): stored.table for stored in files if stored.table is not None}
    rows = [
        {"digest": digest, "names": json.dumps(facts.header), "is_cut": facts.is_cut}
        for digest, facts in headers.items()
    ]
    if rows:
        await connection.execute(_insert_unless_there(connection, header_table), rows)


def _insert_unless_there(connection: AsyncConnection, table: sa.Table) -> sa.Insert:
    """Return an insert that skips rows which exist. Each database has its own statement for this."""
    if connection.dialect.name == "postgresql":
        # Only imported if several hosts share the manifest, because the import takes 30 ms.
        from sqlalchemy.dialects import postgresql

        return postgresql.insert(table).on_conflict_do_nothing()
    return sqlite.insert(table).on_conflict_do_nothing()


def in_batches(values: Collection[Any]) -> Iterator[list[Any]]:
    """Yield the values in order, few enough at once for one statement."""
    ordered = sorted(values)
    for start in range(0, len(ordered), VALUES_AT_ONCE):
        yield ordered[start : start + VALUES_AT_ONCE]
