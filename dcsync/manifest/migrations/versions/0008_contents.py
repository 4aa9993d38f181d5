"""Each distinct file once. The row of a snapshot lists its files."""

import json
from collections import defaultdict
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import sqlalchemy as sa
import structlog
from alembic import op

from dcsync.core.completeness import holds_rows
from dcsync.core.names import clash_key
from dcsync.manifest.rows import content_digest

revision = "0008"
down_revision = "0007"

log = structlog.get_logger("dcsync.manifest.migrate")

#: The log shows the progress at every 200th snapshot.
_SHOWN = 200
#: The columns of `file` that `content` has too, in the order of its digest.
_KEPT = (
    *("name", "original", "size", "crc32", "md5", "sha256", "etag", "packed"),
    *("mtime_ns", "inode", "rows", "header", "kind"),
)
_FILE = sa.table("file", *map(sa.column, ("account", "job", "key", "how", *_KEPT)))
_CONTENT = sa.table("content", *map(sa.column, ("id", "digest", *_KEPT)))
_JOB = sa.table("job", *map(sa.column, ("account", "id", "digest", "files", "holds_table")))


def upgrade() -> None:
    op.create_table(
        "content",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("digest", sa.String, nullable=False, unique=True),
        *_kept_columns(),
    )
    op.add_column("job", sa.Column("files", sa.Text))
    op.add_column("job", sa.Column("holds_table", sa.Boolean))
    _list_files(op.get_bind())
    op.drop_table("file")


def _kept_columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("name", sa.String, nullable=False),
        sa.Column("original", sa.Text, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("crc32", sa.BigInteger, nullable=False),
        sa.Column("md5", sa.String),
        sa.Column("sha256", sa.String, nullable=False),
        sa.Column("etag", sa.Text),
        sa.Column("packed", sa.BigInteger),
        sa.Column("mtime_ns", sa.BigInteger),
        sa.Column("inode", sa.String),
        sa.Column("rows", sa.BigInteger),
        sa.Column("header", sa.String),
        sa.Column("kind", sa.String),
    ]


def _list_files(connection: sa.Connection) -> None:
    """Move the files of each snapshot. Only the digests of all files are in memory, and the rows of two snapshots."""
    snapshots = sa.select(_FILE.c.account, _FILE.c.job).distinct().subquery()
    count = connection.scalar(sa.select(sa.func.count()).select_from(snapshots))
    ids: dict[str, int] = {}
    before: dict[tuple[Any, ...], int] = {}
    for number, (account, job, files) in enumerate(_snapshots(connection)):
        if number % _SHOWN == 0:
            log.info("migrating the manifest", snapshot=f"{number + 1}/{count}")
        current: dict[tuple[Any, ...], int] = {}
        new: list[dict[str, Any]] = []
        listed: defaultdict[str, list[int]] = defaultdict(list)
        for _, _, how, *values in files:
            key = tuple(values)
            # Most files are those of the snapshot before, whose digests are known.
            current[key] = before.get(key) or _number(values, ids, new)
            listed[how].append(current[key])
        before = current
        if new:
            connection.execute(sa.insert(_CONTENT), new)
        text = json.dumps({how: sorted(numbers) for how, numbers in sorted(listed.items())})
        holds = holds_rows(json.loads(file.original) for file in files)
        here = sa.and_(_JOB.c.account == account, _JOB.c.id == job)
        connection.execute(sa.update(_JOB).where(here).values(files=text, holds_table=holds))
    if connection.dialect.name == "postgresql":
        sequence = sa.func.pg_get_serial_sequence("content", "id")
        connection.execute(sa.select(sa.func.setval(sequence, len(ids) + 1, sa.false())))


def _snapshots(connection: sa.Connection) -> Iterator[tuple[str, str, list[Any]]]:
    columns = [_FILE.c[name] for name in ("account", "job", "how", *_KEPT)]
    query = sa.select(*columns).order_by(_FILE.c.account, _FILE.c.job)
    rows = connection.execute(query, execution_options={"yield_per": 500})
    for (account, job), files in groupby(rows, key=lambda row: (row[0], row[1])):
        yield account, job, [*files]


def _number(values: list[Any], ids: dict[str, int], new: list[dict[str, Any]]) -> int:
    digest = content_digest(values)
    if digest not in ids:
        ids[digest] = len(ids) + 1
        new.append({"id": ids[digest], "digest": digest, **dict(zip(_KEPT, values, strict=True))})
    return ids[digest]


def downgrade() -> None:
    connection = op.get_bind()
    contents = {row.id: row for row in connection.execute(sa.select(_CONTENT))}
    jobs = connection.execute(sa.select(_JOB).where(_JOB.c.files.is_not(None))).all()
    # The digests cover the old schema.
    op.execute("DELETE FROM meta WHERE key = 'seal'")
    op.execute("UPDATE job SET digest = NULL")
    with op.batch_alter_table("job") as batch:
        batch.drop_column("holds_table")
        batch.drop_column("files")
    op.drop_table("content")
    op.create_table(
        "file",
        sa.Column("account", sa.String),
        sa.Column("job", sa.String),
        *_kept_columns(),
        sa.Column("key", sa.String, nullable=False),
        sa.Column("how", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("account", "job", "name"),
        sa.ForeignKeyConstraint(["account", "job"], ["job.account", "job.id"], ondelete="CASCADE"),
        sa.UniqueConstraint("account", "job", "key", name="file_key"),
    )
    for job in jobs:
        rows = [
            {
                "account": job.account,
                "job": job.id,
                "key": clash_key(contents[number].name),
                "how": how,
                **{name: getattr(contents[number], name) for name in _KEPT},
            }
            for how, numbers in json.loads(job.files).items()
            for number in numbers
        ]
        connection.execute(sa.insert(_FILE), rows)
