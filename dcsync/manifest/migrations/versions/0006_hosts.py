"""Several hosts: their rows, the fencing number of each job, and the shared quota and tokens."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "claim",
        sa.Column("account", sa.String, primary_key=True),
        sa.Column("job", sa.String, primary_key=True),
        sa.Column("number", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "host",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("version", sa.String, nullable=False),
        sa.Column("role", sa.String, nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("seen_at", sa.BigInteger, nullable=False),
        sa.Column("doing", sa.Text, nullable=False),
    )
    op.create_table(
        "host_worker",
        sa.Column("worker", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("host", sa.Integer, nullable=False),
    )
    op.create_table(
        "quota",
        sa.Column("client", sa.String, primary_key=True),
        sa.Column("paused_until", sa.BigInteger, nullable=False),
        sa.Column("calls", sa.Text, nullable=False),
    )
    op.create_table("token_chain", sa.Column("client", sa.String, primary_key=True))
    op.create_table(
        "token_slot",
        sa.Column("client", sa.String, primary_key=True),
        sa.Column("slot", sa.String, primary_key=True),
        sa.Column("body", sa.Text, nullable=False),
    )


def downgrade() -> None:
    # The seal covers the old schema.
    op.execute("DELETE FROM meta WHERE key = 'seal'")
    for table in ("token_slot", "token_chain", "quota", "host_worker", "host", "claim"):
        op.drop_table(table)
