"""Digests of the rows, to find damage that SQLite does not see, and the hash of each sidecar."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("request", sa.Column("digest", sa.String))
    op.add_column("job", sa.Column("sidecar_sha256", sa.String))
    op.add_column("job", sa.Column("digest", sa.String))


def downgrade() -> None:
    with op.batch_alter_table("job") as batch:
        batch.drop_column("digest")
        batch.drop_column("sidecar_sha256")
    with op.batch_alter_table("request") as batch:
        batch.drop_column("digest")
    # Older versions do not update the seal, which would look like damage to the next newer version.
    op.execute("DELETE FROM meta WHERE key = 'seal'")
