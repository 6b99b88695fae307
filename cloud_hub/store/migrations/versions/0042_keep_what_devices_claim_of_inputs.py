"""Keep what devices claim of inputs"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0042"
down_revision = "0041"
branch_labels = None
depends_on = None

WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
COUNTS = ("settled", "disputed", "maybe_old", "maybe_new")
NEW = {
    "pairevidence": ("claimed", "own_old", "own_new", "outvoted", "disputed"),
    "shadowevidence": ("claimed", "own_differ", "outvoted", "disputed"),
}


def upgrade() -> None:
    """Apply."""
    op.add_column("pairinput", sa.Column("claims", sa.Text(), nullable=False, server_default="{}"))
    for table, columns in NEW.items():
        for column in columns:
            op.add_column(table, sa.Column(column, WHOLE, nullable=False, server_default="0"))
    counted = 'claimed = "both" + only_old + only_new + neither, own_old = only_old, own_new = only_new'
    op.execute(f"UPDATE pairevidence SET {counted}")  # noqa: S608  # names of ours
    op.execute("UPDATE shadowevidence SET claimed = agree + differ, own_differ = differ")
    op.create_table(
        "pair_shared",
        sa.Column("rollout", sa.String(), nullable=False),
        sa.Column("attempt", WHOLE, nullable=False),
        *(sa.Column(name, WHOLE, nullable=False, server_default="0") for name in COUNTS),
        sa.PrimaryKeyConstraint("rollout", "attempt"),
    )


def downgrade() -> None:
    """Undo."""
    op.drop_table("pair_shared")
    for table, columns in NEW.items():
        for column in columns:
            op.drop_column(table, column)
    op.drop_column("pairinput", "claims")
