"""Say of which model drift is not watched, and why"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0021"
branch_labels = None
depends_on = None

WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "drift_trouble",
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("since", sa.Float(), nullable=False),
        sa.Column("looks", WHOLE, nullable=False),
        sa.Column("words", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("model"),
    )


def downgrade() -> None:
    """Undo."""
    op.drop_table("drift_trouble")
