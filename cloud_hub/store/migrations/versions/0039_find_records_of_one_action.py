"""Find the audit log's records of one action"""

from __future__ import annotations

from alembic import op

revision = "0039"
down_revision = "0037"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_index("ix_auditentry_action_id", "auditentry", ["action", "id"])


def downgrade() -> None:
    """Undo."""
    op.drop_index("ix_auditentry_action_id", table_name="auditentry")
