"""Number the changes of who may call and what is served, for what replicas keep in memory"""

from __future__ import annotations

from alembic import op

from cloud_hub.store import access_version

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    access_version.create(op.get_bind())


def downgrade() -> None:
    """Undo."""
    access_version.drop(op.get_bind())
