"""Find the audit log's records of one action and the jobs of one model, and keep how devices' machines do"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0039"
down_revision = "0037"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_index("ix_auditentry_action_id", "auditentry", ["action", "id"])
    op.create_index("ix_job_model_id", "job", ["model", "id"])
    op.add_column("device", sa.Column("vitals", sa.Text(), nullable=False, server_default="{}"))


def downgrade() -> None:
    """Undo."""
    op.drop_column("device", "vitals")
    op.drop_index("ix_job_model_id", table_name="job")
    op.drop_index("ix_auditentry_action_id", table_name="auditentry")
