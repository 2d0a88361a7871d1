"""Alembic's entry point: runs on the connection and in the transaction that `database.migrate` opened."""

from alembic import context

from driftpost_aggregator.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite can roll DDL back too, which Alembic does not assume because the driver used to get in the way.
    transactional_ddl=True,
)
context.run_migrations()
