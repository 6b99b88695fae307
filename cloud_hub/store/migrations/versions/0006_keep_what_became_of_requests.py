"""Keep which releases were committed untried, and what became of a rollout's requests"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
COUNTED = ("answered", "local_failed", "newly_refused")


def upgrade() -> None:
    """Apply."""
    with op.batch_alter_table("devicemodel") as batch_op:
        batch_op.add_column(sa.Column("untried", sa.Boolean(), nullable=False, server_default=sa.false()))
    with op.batch_alter_table("pairevidence") as batch_op:
        for name in COUNTED:
            batch_op.add_column(sa.Column(name, WHOLE, nullable=False, server_default="0"))


def downgrade() -> None:
    """Undo."""
    with op.batch_alter_table("pairevidence") as batch_op:
        for name in reversed(COUNTED):
            batch_op.drop_column(name)
    with op.batch_alter_table("devicemodel") as batch_op:
        batch_op.drop_column("untried")
