"""Keep which interface an operator chose, and write down which models' releases disagree"""

from __future__ import annotations

import json
import time
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
ACTION = "model.disputed"
HINT = "nothing is published until: fleet model change NAME --interface-from N"


def upgrade() -> None:
    """Apply. Until 0.1 nothing kept the names and shapes of a model from one release to the next."""
    with op.batch_alter_table("model") as batch_op:
        batch_op.add_column(sa.Column("interface_from", WHOLE, nullable=True))
    connection = op.get_bind()
    for model, releases in _disputed(connection).items():
        connection.execute(
            sa.text(
                "INSERT INTO auditentry (at, actor, action, subject, detail) "
                "VALUES (:at, :actor, :action, :subject, :d)"
            ),
            {
                "at": time.time(),
                "actor": "migration:0008",
                "action": ACTION,
                "subject": model,
                "d": json.dumps({"releases": releases, "hint": HINT}),
            },
        )


def _disputed(connection: sa.Connection) -> dict[str, list[int]]:
    """The live releases of every model of which not all have the same tensors and classes."""
    live = connection.execute(
        sa.text(
            "SELECT r.model, r.number, r.manifest FROM release r JOIN model m ON m.name = r.model "
            "WHERE r.status = 'published' AND r.number >= m.min_release ORDER BY r.model, r.number"
        )
    ).all()
    found: dict[str, dict[int, Any]] = {}
    for row in live:
        found.setdefault(row.model, {})[row.number] = _interface(json.loads(bytes(row.manifest)))
    return {
        model: list(each)
        for model, each in found.items()
        if any(interface != next(iter(each.values())) for interface in each.values())
    }


def _interface(manifest: dict[str, Any]) -> Any:
    inputs = sorted(manifest["inputs"], key=lambda tensor: str(tensor["name"]))
    return inputs, manifest["outputs"], manifest.get("labels", [])


def downgrade() -> None:
    """Undo."""
    connection = op.get_bind()
    connection.execute(sa.text("DELETE FROM auditentry WHERE action = :action"), {"action": ACTION})
    op.execute(sa.text("ALTER TABLE model DROP COLUMN interface_from"))  # a batch would drop what releases refer to
