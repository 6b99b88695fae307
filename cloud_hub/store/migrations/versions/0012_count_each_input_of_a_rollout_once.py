"""Count each input of a rollout once"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "pairinput",
        sa.Column("rollout", sa.String(), nullable=False),
        sa.Column("attempt", WHOLE, nullable=False),
        sa.Column("key", WHOLE, nullable=False),
        sa.PrimaryKeyConstraint("rollout", "attempt", "key"),
    )
    for column in ("repeats", "unnamed"):
        op.add_column("pairevidence", sa.Column(column, WHOLE, nullable=False, server_default="0"))
    # Pairs that a live rollout has counted so far may be repeats, as those of agents that name no inputs.
    op.execute(
        'UPDATE pairevidence SET unnamed = "both" + only_old + only_new + neither, "both" = 0, only_old = 0, '
        "only_new = 0, neither = 0 WHERE rollout IN (SELECT id FROM rollout WHERE ended_at IS NULL)"
    )


def downgrade() -> None:
    """Undo."""
    for column in ("repeats", "unnamed"):
        op.drop_column("pairevidence", column)
    op.drop_table("pairinput")
