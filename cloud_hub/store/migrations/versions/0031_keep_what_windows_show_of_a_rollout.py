"""Keep what windows show of a rollout"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0031"
down_revision = "0034"
branch_labels = None
depends_on = None

WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "rollout_signals",
        sa.Column("rollout", sa.String(), nullable=False),
        sa.Column("attempt", WHOLE, nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("rollout", "attempt"),
    )


def downgrade() -> None:
    """Undo."""
    op.drop_table("rollout_signals")
