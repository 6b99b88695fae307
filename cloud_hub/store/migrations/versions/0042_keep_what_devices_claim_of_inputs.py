"""Keep what devices claim of inputs"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0042"
down_revision = "0041"
branch_labels = None
depends_on = None

WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
COUNTS = ("both", "only_old", "only_new", "neither", "disputed", "maybe_old", "maybe_new")


def upgrade() -> None:
    """Apply."""
    op.add_column("pairinput", sa.Column("claims", sa.Text(), nullable=False, server_default="{}"))
    for table in ("pairevidence", "shadowevidence"):
        for column in ("claimed", "outvoted", "disputed"):
            op.add_column(table, sa.Column(column, WHOLE, nullable=False, server_default="0"))
    op.execute('UPDATE pairevidence SET claimed = "both" + only_old + only_new + neither')
    op.execute("UPDATE shadowevidence SET claimed = agree + differ")
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
    for table in ("pairevidence", "shadowevidence"):
        for column in ("claimed", "outvoted", "disputed"):
            op.drop_column(table, column)
    op.drop_column("pairinput", "claims")
