"""Compare releases beside those that serve"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0018"
branch_labels = None
depends_on = None

WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
COUNTS = ("agree", "differ", "repeats", "non_finite", "failed", "crashed", "dropped", "old_us", "new_us")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "shadowevidence",
        sa.Column("rollout", sa.String(), nullable=False),
        sa.Column("attempt", WHOLE, nullable=False),
        sa.Column("device_id", sa.String(), nullable=False),
        *(sa.Column(name, WHOLE, nullable=False) for name in COUNTS),
        sa.Column("reason", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("rollout", "attempt", "device_id"),
    )


def downgrade() -> None:
    """Undo."""
    op.drop_table("shadowevidence")
