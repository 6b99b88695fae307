"""Give channels a usual schedule, which new rollouts take"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0032"
down_revision = "0035"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("channel", sa.Column("usual_schedule", sa.Text(), nullable=True))


def downgrade() -> None:
    """Undo."""
    with op.batch_alter_table("channel") as batch:
        batch.drop_column("usual_schedule")
