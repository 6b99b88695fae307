"""Keep how long devices are quiet, and what a rollout's devices showed"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

QUIET = ("quiet_s", "quiet_before_s", "quiet_since")


def upgrade() -> None:
    """Apply."""
    for column in QUIET:
        op.add_column("device", sa.Column(column, sa.Float(), nullable=False, server_default="0"))
    op.add_column("pairevidence", sa.Column("silent_at", sa.Float(), nullable=True))
    op.add_column("pairevidence", sa.Column("reason", sa.String(), nullable=False, server_default=""))


def downgrade() -> None:
    """Undo."""
    for column in ("silent_at", "reason"):
        op.drop_column("pairevidence", column)
    for column in QUIET:
        op.drop_column("device", column)
