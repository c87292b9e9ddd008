"""Runs the revisions on the connection that `studies.database` hands over; alembic calls this file."""

from __future__ import annotations

from alembic import context

from studies.tables import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
)
with context.begin_transaction():
    context.run_migrations()
