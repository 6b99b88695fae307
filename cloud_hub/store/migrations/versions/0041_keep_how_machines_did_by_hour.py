"""Keep how devices' machines did by hour"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0041"
down_revision = "0040"
branch_labels = None
depends_on = None
WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Apply."""
    op.add_column("device", sa.Column("vitals_hour", sa.Text(), nullable=False, server_default="{}"))
    op.create_table(
        "vitals_hour",
        sa.Column("device_id", sa.String(), primary_key=True),
        sa.Column("begins", WHOLE, primary_key=True, autoincrement=False),
        sa.Column("heartbeats", WHOLE, nullable=False),
        sa.Column("cpu", sa.Float()),
        sa.Column("cpu_most", sa.Float()),
        sa.Column("memory", WHOLE),
        sa.Column("memory_free", WHOLE),
        sa.Column("disk", WHOLE),
        sa.Column("disk_free", WHOLE),
        sa.Column("celsius", sa.Float()),
    )
    op.create_index("ix_vitals_hour_begins", "vitals_hour", ["begins"])


def downgrade() -> None:
    """Undo."""
    op.drop_table("vitals_hour")
    op.drop_column("device", "vitals_hour")
