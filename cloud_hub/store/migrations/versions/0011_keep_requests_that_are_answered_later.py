"""Keep inference requests whose answers are fetched later"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from cloud_hub.store.types import Json

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "async_request",
        sa.Column("headers", Json(), nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("release", WHOLE, nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("size_bytes", WHOLE, nullable=False),
        sa.Column("code", sa.String(), nullable=False),
        sa.Column("error", sa.String(), nullable=False),
        sa.Column("runner", sa.String(), nullable=False),
        sa.Column("attempt", WHOLE, nullable=False),
        sa.Column("ready_at", sa.Float(), nullable=False),
        sa.Column("lease_until", sa.Float(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("ended_at", sa.Float(), nullable=True),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    for column in ("owner", "state", "expires_at"):
        op.create_index(f"ix_async_request_{column}", "async_request", [column])


def downgrade() -> None:
    """Undo."""
    op.drop_table("async_request")
