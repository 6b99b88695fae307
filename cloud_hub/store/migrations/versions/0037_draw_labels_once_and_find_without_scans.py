"""Keep which labels a rollout has drawn, and find labels, ill devices, serving ones and old days without scans"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0037"
down_revision = "0031"
branch_labels = None
depends_on = None

WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
# Name, table, columns, and which rows are in it.
INDEXES: tuple[tuple[str, str, list[str], str], ...] = (
    (
        "ix_sample_drawn_label",
        "sample",
        ["model", "labelled_at", "id"],
        "reason = 'random' AND label IS NOT NULL AND deleted_at IS NULL",
    ),
    ("ix_sample_labelled_at", "sample", ["labelled_at"], "labelled_at IS NOT NULL"),
    ("ix_device_set_aside", "device", ["id"], "set_aside > 0"),
    ("ix_devicemodel_empty", "devicemodel", ["device_id", "model"], "active IS NULL"),
    ("ix_devicemodel_serving", "devicemodel", ["model", "active", "device_id"], "active IS NOT NULL"),
)
SEEN = ("cloned_at", "slowed_at")  # of a device's connections, by the hub itself


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "rollout_label",
        sa.Column("rollout", sa.String(), nullable=False),
        sa.Column("attempt", WHOLE, nullable=False),
        sa.Column("sample", sa.String(), nullable=False),
        sa.Column("number", WHOLE, nullable=False),
        sa.Column("new", sa.Boolean(), nullable=False),
        sa.Column("device_id", sa.String(), nullable=False),
        sa.Column("good", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("rollout", "attempt", "sample"),
    )
    op.create_index("ix_rollout_label_number", "rollout_label", ["rollout", "attempt", "number"], unique=True)
    for name, table, columns, some in INDEXES:
        op.create_index(name, table, columns, sqlite_where=sa.text(some), postgresql_where=sa.text(some))
    for word in SEEN:
        sqlite = sa.text(f"instr(sessions, '\"{word}\"') > 0")
        postgres = sa.text(f"sessions ~ '\"{word}\"'")
        op.create_index(f"ix_device_{word}", "device", ["id"], sqlite_where=sqlite, postgresql_where=postgres)


def downgrade() -> None:
    """Undo."""
    for word in SEEN:
        op.drop_index(f"ix_device_{word}", table_name="device")
    for name, table, _, _ in reversed(INDEXES):
        op.drop_index(name, table_name=table)
    op.drop_index("ix_rollout_label_number", table_name="rollout_label")
    op.drop_table("rollout_label")
