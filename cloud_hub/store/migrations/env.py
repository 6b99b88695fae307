"""Alembic's environment: runs over the connection that `cloud_hub.store.migrate` hands over."""

from __future__ import annotations

from typing import Literal

from alembic import context
from sqlmodel import SQLModel
from sqlmodel.sql.sqltypes import AutoString

from cloud_hub.store import tables

assert tables.Model.metadata is SQLModel.metadata


def render_item(kind: str, item: object, autogen: object) -> str | Literal[False]:
    """Write SQLModel's own string type as the plain one that it is."""
    return "sa.String()" if kind == "type" and isinstance(item, AutoString) else False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=SQLModel.metadata,
    render_as_batch=True,
    render_item=render_item,
)
with context.begin_transaction():
    context.run_migrations()
