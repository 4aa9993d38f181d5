"""Header and row count of each table, and the summary of each snapshot for its history."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "header",
        sa.Column("digest", sa.String, primary_key=True),
        sa.Column("names", sa.Text, nullable=False),
        sa.Column("is_cut", sa.Boolean, nullable=False),
    )
    op.add_column("file", sa.Column("rows", sa.BigInteger))
    op.add_column("file", sa.Column("header", sa.String))
    op.add_column("job", sa.Column("summary", sa.Text))


def downgrade() -> None:
    # The digests cover the old schema and columns that are removed.
    op.execute("DELETE FROM meta WHERE key = 'seal'")
    op.execute("UPDATE job SET digest = NULL")
    with op.batch_alter_table("job") as batch:
        batch.drop_column("summary")
    with op.batch_alter_table("file") as batch:
        batch.drop_column("header")
        batch.drop_column("rows")
    op.drop_table("header")
