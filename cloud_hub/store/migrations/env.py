"""Alembic's environment: runs over the connection that `cloud_hub.store.migrate` hands over."""

from __future__ import annotations

from alembic import context
from sqlmodel import SQLModel

from cloud_hub.store import tables

assert tables.Model.metadata is SQLModel.metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=SQLModel.metadata, render_as_batch=True
)
with context.begin_transaction():
    context.run_migrations()
