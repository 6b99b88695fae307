"""Sum windows up by hour and day"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from cloud_hub.store.types import Json

revision = "0018"
down_revision = "0026"
branch_labels = None
depends_on = None

WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "window_sum",
        sa.Column("device_id", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("release", WHOLE, nullable=False),
        sa.Column("span_s", WHOLE, nullable=False),
        sa.Column("begins", WHOLE, nullable=False),
        sa.Column("started_at", sa.Float(), nullable=False),
        sa.Column("ended_at", sa.Float(), nullable=False),
        sa.Column("windows", WHOLE, nullable=False),
        sa.Column("body", Json(), nullable=False),
        sa.Column("sketch_id", sa.String(), nullable=False),
        sa.Column("sketch_count", WHOLE, nullable=False),
        sa.Column("sketch", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("device_id", "model", "release", "span_s", "begins"),
    )
    op.create_index("ix_window_sum_model_ended", "window_sum", ["model", "ended_at"])
    op.create_index("ix_window_sum_span_begins", "window_sum", ["span_s", "begins"])


def downgrade() -> None:
    """Undo."""
    op.drop_table("window_sum")
