"""Find a model's new windows without reading its old ones"""

from __future__ import annotations

from alembic import op

revision = "0017"
down_revision = "0015"
branch_labels = None
depends_on = None

NAME = "ix_window_model_id"


def upgrade() -> None:
    """Apply."""
    op.create_index(NAME, "window", ["model", "id"])


def downgrade() -> None:
    """Undo."""
    op.drop_index(NAME, table_name="window")
