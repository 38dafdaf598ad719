"""Alembic's entry: runs on the connection that `store.upgrade` opened."""

from __future__ import annotations

from alembic import context

from finetuneflow.store.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    # SQLite cannot alter a table in place: Alembic copies it instead.
    render_as_batch=True,
)
context.run_migrations()
