"""Header and rows of each table, and what is kept of a snapshot for its history."""

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
    # They are over the schema that there was, and over columns that go.
    op.execute("DELETE FROM meta WHERE key = 'seal'")
    op.execute("UPDATE job SET digest = NULL")
    with op.batch_alter_table("job") as batch:
        batch.drop_column("summary")
    with op.batch_alter_table("file") as batch:
        batch.drop_column("header")
        batch.drop_column("rows")
    op.drop_table("header")
