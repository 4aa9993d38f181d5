"""The compressed size of a file in its ZIP, which is compared with the next ZIP."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("file", sa.Column("packed", sa.BigInteger))


def downgrade() -> None:
    with op.batch_alter_table("file") as batch:
        batch.drop_column("packed")
