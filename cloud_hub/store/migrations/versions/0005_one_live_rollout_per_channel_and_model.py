"""One live rollout per channel and model"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

WHY = "another rollout of the model was live on the channel"
LIVE = sa.text("ended_at IS NULL")


def upgrade() -> None:
    """Apply. Where two are live (hubs allowed it when both came at once), the one that the channel names stays."""
    connection = op.get_bind()
    for row, progress in _surplus(connection):
        ended = {**progress, "state": "aborted", "reason": WHY, "ended_at": row.updated_at}
        connection.execute(
            sa.text(
                "UPDATE rollout SET state = 'aborted', reason = :why, ended_at = :at, progress = :doc WHERE id = :id"
            ),
            {"why": WHY, "at": row.updated_at, "doc": json.dumps(ended, sort_keys=True), "id": row.id},
        )
        connection.execute(
            sa.text("INSERT INTO rolloutevent (rollout, at, event, detail) VALUES (:id, :at, 'aborted', :detail)"),
            {"id": row.id, "at": row.updated_at, "detail": json.dumps({"reason": WHY})},
        )
    op.create_index(
        "ux_rollout_live", "rollout", ["channel", "model"], unique=True, sqlite_where=LIVE, postgresql_where=LIVE
    )


def _surplus(connection: sa.Connection) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Live rollouts beyond the first of each channel and model: the one in the channel's document, else the newest."""
    documents = connection.execute(sa.text("SELECT name, document FROM channel")).all()
    named = {
        (row.name, model): (entry.get("rollout") or {}).get("id", "")
        for row in documents
        for model, entry in json.loads(bytes(row.document)).get("models", {}).items()
    }
    columns = "id, channel, model, progress, updated_at, created_at"
    live = connection.execute(sa.text(f"SELECT {columns} FROM rollout WHERE ended_at IS NULL")).all()  # noqa: S608
    kept: set[tuple[str, str]] = set()
    for row in sorted(live, key=lambda one: (named.get((one.channel, one.model)) != one.id, -one.created_at)):
        if (row.channel, row.model) in kept:
            yield row, json.loads(row.progress)
        kept.add((row.channel, row.model))


def downgrade() -> None:
    """Undo."""
    op.drop_index("ux_rollout_live", "rollout")
