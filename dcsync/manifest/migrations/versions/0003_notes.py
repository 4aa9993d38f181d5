"""Standing alerts and hook runs."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "attention",
        sa.Column("account", sa.String, primary_key=True),
        sa.Column("code", sa.String, primary_key=True),
        sa.Column("subject", sa.String, primary_key=True),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("hint", sa.Text, nullable=False),
        sa.Column("since", sa.BigInteger, nullable=False),
        sa.Column("told_at", sa.BigInteger),
    )
    op.create_table(
        "hook_run",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("account", sa.String, nullable=False),
        sa.Column("job", sa.String),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("argv", sa.Text, nullable=False),
        sa.Column("event", sa.Text, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("next_try_at", sa.BigInteger),
        sa.Column("ended_at", sa.BigInteger),
        sa.Column("exit_status", sa.Integer),
        sa.Column("error", sa.Text),
    )
    op.create_index("hook_run_by_state", "hook_run", ["state", "next_try_at"])
    op.create_index("hook_run_by_job", "hook_run", ["account", "job"])


def downgrade() -> None:
    op.drop_index("hook_run_by_job", "hook_run")
    op.drop_index("hook_run_by_state", "hook_run")
    op.drop_table("hook_run")
    op.drop_table("attention")
