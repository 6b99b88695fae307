"""Set aside what a device sent and cannot be taken; whole numbers have 64 bits"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# SQLite's INTEGER has 64 bits already.
WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
WIDENED = {
    "alarm": (
        "id",
        "release",
    ),
    "auditentry": ("id",),
    "channel": (
        "notified_version",
        "spread_s",
        "version",
    ),
    "device": ("command_counter",),
    "deviceevent": (
        "id",
        "seq",
    ),
    "devicemodel": (
        "active",
        "attempt",
        "channel_version",
        "previous",
        "seq",
        "target",
    ),
    "driftmonitor": (
        "last_window",
        "release",
    ),
    "job": (
        "attempt",
        "max_attempts",
    ),
    "measured": (
        "release",
        "rounds",
    ),
    "metadata": ("version",),
    "model": (
        "min_release",
        "next_release",
    ),
    "pairevidence": (
        "attempt",
        "both",
        "neither",
        "only_new",
        "only_old",
    ),
    "release": ("number",),
    "rollout": (
        "attempt",
        "from_release",
        "release",
    ),
    "rolloutevent": ("id",),
    "sample": (
        "cloud_prediction",
        "label",
        "prediction",
        "release",
    ),
    "snapshot": (
        "labelled",
        "samples",
        "size_bytes",
    ),
    "spoolcursor": (
        "committed",
        "lost",
        "receipted",
    ),
    "window": (
        "id",
        "release",
        "seq",
        "sketch_count",
    ),
}


def upgrade() -> None:
    """Apply."""
    _widen(sa.Integer(), sa.BigInteger())
    with op.batch_alter_table("device") as batch_op:
        batch_op.add_column(sa.Column("set_aside", WHOLE, nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("sessions", sa.Text(), nullable=False, server_default="{}"))
    with op.batch_alter_table("spoolcursor") as batch_op:
        batch_op.add_column(sa.Column("used_at", sa.Float(), nullable=False, server_default="0"))
    op.create_table(
        "set_aside",
        sa.Column("id", WHOLE, nullable=False),
        sa.Column("device_id", sa.String(), nullable=False),
        sa.Column("received_at", sa.Float(), nullable=False),
        sa.Column("leaf", sa.String(), nullable=False),
        sa.Column("spool", sa.String(), nullable=False),
        sa.Column("seq", WHOLE, nullable=True),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_set_aside_device_reason", "set_aside", ["device_id", "reason"])


def downgrade() -> None:
    """Undo."""
    op.drop_table("set_aside")
    with op.batch_alter_table("spoolcursor") as batch_op:
        batch_op.drop_column("used_at")
    with op.batch_alter_table("device") as batch_op:
        batch_op.drop_column("sessions")
        batch_op.drop_column("set_aside")
    _widen(sa.BigInteger(), sa.Integer())


def _widen(before: sa.Integer, after: sa.Integer) -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    for table, columns in WIDENED.items():
        for column in columns:
            op.alter_column(table, column, existing_type=before, type_=after)
