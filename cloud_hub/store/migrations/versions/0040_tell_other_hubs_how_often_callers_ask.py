"""Tell other hubs how often callers ask"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0040"
down_revision = "0039"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "calleruse",
        sa.Column("hub", sa.String(), primary_key=True),
        sa.Column("caller", sa.String(), primary_key=True),
        sa.Column("per_s", sa.Float(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
    )
    op.create_index("ix_calleruse_at", "calleruse", ["at"])


def downgrade() -> None:
    """Undo."""
    op.drop_table("calleruse")
