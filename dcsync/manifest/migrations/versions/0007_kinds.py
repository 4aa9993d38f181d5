"""The kind of each table: full, window or delta."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("file", sa.Column("kind", sa.String))


def downgrade() -> None:
    # The digests cover the old schema and the column that is removed.
    op.execute("DELETE FROM meta WHERE key = 'seal'")
    op.execute("UPDATE job SET digest = NULL")
    with op.batch_alter_table("file") as batch:
        batch.drop_column("kind")
