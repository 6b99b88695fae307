"""Count the inputs of a device that others have met"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0044"
down_revision = "0042"
branch_labels = None
depends_on = None

WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TABLES = ("pairevidence", "shadowevidence")


def upgrade() -> None:
    """Apply."""
    for table in TABLES:
        op.add_column(table, sa.Column("checked", WHOLE, nullable=False, server_default="0"))


def downgrade() -> None:
    """Undo."""
    for table in TABLES:
        op.drop_column(table, "checked")
