"""Watch every device for drift"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "driftstream",
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("release", WHOLE, nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("windows", WHOLE, nullable=False),
        sa.Column("began_at", sa.Float(), nullable=False),
        sa.Column("last_at", sa.Float(), nullable=False),
        sa.Column("evidence", sa.Float(), nullable=False),
        sa.Column("alarm_at", sa.Float(), nullable=False),
        sa.Column("distance", sa.Float(), nullable=False),
        sa.Column("margin", sa.Float(), nullable=True),
        sa.Column("since", sa.Float(), nullable=True),
        sa.Column("alarm", WHOLE, nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("model", "kind", "name"),
    )
    op.create_index("ix_driftstream_model_evidence", "driftstream", ["model", "evidence"])
    op.add_column("driftmonitor", sa.Column("basis", sa.LargeBinary(), nullable=False, server_default=sa.text("''")))
    # A baseline of all devices together says nothing about one of them: every model is watched from the start again.
    # Until then it says "waiting"; an alarm that is open is closed by the engine when it begins.
    op.execute("UPDATE driftmonitor SET state = 'waiting', document = '{}'")


def downgrade() -> None:
    """Undo."""
    op.drop_column("driftmonitor", "basis")
    op.drop_index("ix_driftstream_model_evidence", "driftstream")
    op.drop_table("driftstream")
    op.execute("UPDATE driftmonitor SET state = 'waiting', document = '{}'")
