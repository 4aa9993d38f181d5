"""Alembic's entry: it runs on the connection that `dcsync.manifest` hands it, within that one's transaction."""

from alembic import context

from dcsync.manifest.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite changes a column by building the table anew.
    render_as_batch=True,
    # All pending migrations or none (FAULTS D15): SQLite's DDL is transactional when the driver begins the transaction.
    transactional_ddl=True,
    transaction_per_migration=False,
)
context.run_migrations()
