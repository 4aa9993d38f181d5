"""The entry point of Alembic. It runs on the connection of `dcsync.manifest`, in its transaction."""

from alembic import context

from dcsync.manifest.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite changes a column by building the table again.
    render_as_batch=True,
    # All pending migrations or none (faults.md D15): DDL in SQLite is transactional, because our connections begin
    # their transactions explicitly.
    transactional_ddl=True,
    transaction_per_migration=False,
)
context.run_migrations()
