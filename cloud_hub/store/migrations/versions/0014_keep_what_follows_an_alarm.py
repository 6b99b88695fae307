"""Keep what follows an alarm"""

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
    op.create_index("ix_alarm_response_model", "alarm_response", ["model"])
    op.create_index("ix_alarm_response_state", "alarm_response", ["state"])


def downgrade() -> None:
    """Undo."""
    op.drop_table("alarm_response")
