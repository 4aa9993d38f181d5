"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "meta",
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    op.create_table(
        "account",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("last_poll_at", sa.BigInteger),
        sa.Column("last_success_at", sa.BigInteger),
        sa.Column("conditional_works", sa.Boolean),
        sa.Column("etag_is_md5", sa.Boolean),
        sa.Column("bytes_per_second", sa.Float),
        sa.Column("error_code", sa.String),
        sa.Column("error", sa.Text),
    )
    op.create_table(
        "request",
        sa.Column("account", sa.String, primary_key=True),
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("slug", sa.String, nullable=False),
        sa.Column("is_delta", sa.Boolean, nullable=False),
        sa.Column("document", sa.Text),
        sa.Column("first_seen_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "job",
        sa.Column("account", sa.String, primary_key=True),
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("request", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("completed_at", sa.BigInteger),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("first_seen_at", sa.BigInteger, nullable=False),
        sa.Column("changed_at", sa.BigInteger, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next_try_at", sa.BigInteger),
        sa.Column("reason_code", sa.String),
        sa.Column("reason", sa.Text),
        sa.Column("folder", sa.Text, unique=True),
        sa.Column("published_at", sa.BigInteger),
        sa.Column("strategy", sa.String),
        sa.Column("calls", sa.Integer),
        sa.Column("fetched_bytes", sa.BigInteger),
        sa.Column("linked_bytes", sa.BigInteger),
        sa.Column("seconds", sa.Float),
    )
    op.create_index("job_by_state", "job", ["account", "state"])
    op.create_index("job_by_request", "job", ["account", "request", "completed_at"])
    op.create_table(
        "file",
        sa.Column("account", sa.String, primary_key=True),
        sa.Column("job", sa.String, primary_key=True),
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("key", sa.String, nullable=False),
        sa.Column("original", sa.Text, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("crc32", sa.BigInteger, nullable=False),
        sa.Column("md5", sa.String),
        sa.Column("sha256", sa.String, nullable=False),
        sa.Column("etag", sa.Text),
        sa.Column("how", sa.String, nullable=False),
        sa.Column("mtime_ns", sa.BigInteger),
        sa.Column("inode", sa.String),
        sa.ForeignKeyConstraint(["account", "job"], ["job.account", "job.id"], ondelete="CASCADE"),
        sa.UniqueConstraint("account", "job", "key", name="file_key"),
    )
    op.create_table(
        "run",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("account", sa.String, nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("ended_at", sa.BigInteger, nullable=False),
        sa.Column("published", sa.Integer, nullable=False),
        sa.Column("failed", sa.Integer, nullable=False),
        sa.Column("calls", sa.Integer, nullable=False),
        sa.Column("fetched_bytes", sa.BigInteger, nullable=False),
        sa.Column("linked_bytes", sa.BigInteger, nullable=False),
        sa.Column("error_code", sa.String),
    )
    op.create_index("run_by_account", "run", ["account", "started_at"])


def downgrade() -> None:
    for table in ("run", "file", "job", "request", "account", "meta"):
        op.drop_table(table)
