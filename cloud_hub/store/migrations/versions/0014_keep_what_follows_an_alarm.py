"""Keep what follows an alarm, and what is watched of inputs"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlmodel import AutoString

from cloud_hub.store.types import Json

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "alarm_response",
        sa.Column("alarm", WHOLE, nullable=False),
        sa.Column("model", AutoString(), nullable=False),
        sa.Column("state", AutoString(), nullable=False),
        sa.Column("since", sa.Float(), nullable=False),
        sa.Column("deadline", sa.Float(), nullable=True),
        sa.Column("job", AutoString(), nullable=False),
        sa.Column("document", Json(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("alarm"),
    )
    op.create_table(
        "input_monitor",
        sa.Column("model", AutoString(), nullable=False),
        sa.Column("release", WHOLE, nullable=False),
        sa.Column("document", Json(), nullable=False),
        sa.Column("last_window", WHOLE, nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("model"),
    )
    op.create_table(
        "input_watch",
        sa.Column("model", AutoString(), nullable=False),
        sa.Column("device_id", AutoString(), nullable=False),
        sa.Column("document", Json(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("model", "device_id"),
    )
    op.create_index("ix_alarm_response_model", "alarm_response", ["model"])
    op.create_index("ix_alarm_response_state", "alarm_response", ["state"])


def downgrade() -> None:
    """Undo."""
    op.drop_table("input_watch")
    op.drop_table("input_monitor")
    op.drop_table("alarm_response")
