"""Find a channel's devices in the order of their ids, and the audit log's records of one subject"""

from __future__ import annotations

from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_index("ix_device_channel_id", "device", ["channel", "id"])
    op.drop_index("ix_device_channel", table_name="device")
    op.create_index("ix_auditentry_subject_id", "auditentry", ["subject", "id"])


def downgrade() -> None:
    """Undo."""
    op.drop_index("ix_auditentry_subject_id", table_name="auditentry")
    op.create_index("ix_device_channel", "device", ["channel"])
    op.drop_index("ix_device_channel_id", table_name="device")
