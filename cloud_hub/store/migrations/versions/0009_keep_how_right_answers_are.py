"""Keep how right answers are, by audits and labels"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlmodel import AutoString

from cloud_hub.store.types import Json

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "meaning",
        sa.Column("model", AutoString(), nullable=False),
        sa.Column("release", WHOLE, nullable=False),
        sa.Column("document", Json(), nullable=False),
        sa.Column("last_window", WHOLE, nullable=False),
        sa.Column("last_label_at", sa.Float(), nullable=False),
        sa.Column("last_label", AutoString(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("model"),
    )


def downgrade() -> None:
    """Undo."""
    op.drop_table("meaning")
