"""Find ill devices by what they report, and sum the fleet's traffic up by hour"""

from __future__ import annotations

import msgspec
import sqlalchemy as sa
from alembic import op

revision = "0034"
down_revision = "0032"
branch_labels = None
depends_on = None

WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
COUNTS = ("windows", "requests", "edge", "cloud", "audited", "failed", "refused")
LONGEST = 200
STEP = 1000  # devices


def upgrade() -> None:
    """Apply."""
    op.add_column("device", sa.Column("problem", sa.String(), nullable=False, server_default=""))
    _keep_problems(op.get_bind())
    told = sa.text("problem != ''")
    op.create_index("ix_device_problem", "device", ["problem", "id"], sqlite_where=told, postgresql_where=told)
    op.create_index("ix_device_certificate", "device", ["certificate_expires_at"])
    why = sa.text("reason != ''")
    op.create_index(
        "ix_devicemodel_reason", "devicemodel", ["reason", "device_id"], sqlite_where=why, postgresql_where=why
    )
    op.create_index("ix_auditentry_actor_id", "auditentry", ["actor", "id"])
    op.create_table(
        "traffic",
        sa.Column("begins", WHOLE, nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("release", WHOLE, nullable=False),
        *(sa.Column(name, WHOLE, nullable=False) for name in COUNTS),
        sa.PrimaryKeyConstraint("begins", "model", "release"),
    )


def downgrade() -> None:
    """Undo."""
    op.drop_table("traffic")
    op.drop_index("ix_auditentry_actor_id", table_name="auditentry")
    op.drop_index("ix_devicemodel_reason", table_name="devicemodel")
    op.drop_index("ix_device_certificate", table_name="device")
    op.drop_index("ix_device_problem", table_name="device")
    op.drop_column("device", "problem")  # in place: a table that is made anew has lost its triggers


def _keep_problems(connection: sa.Connection) -> None:
    """The word that each device has reported last, out of its document."""
    device = sa.table("device", sa.column("id", sa.String), sa.column("info", sa.Text), sa.column("problem", sa.String))
    rows = sa.select(device.c.id, device.c.info).where(device.c.info.contains('"problem":"'))
    after = ""
    while True:
        found = connection.execute(rows.where(device.c.id > after).order_by(device.c.id).limit(STEP)).all()
        for name, info in found:
            problem = msgspec.json.decode(info).get("problem", "")
            if isinstance(problem, str) and problem:
                change = sa.update(device).where(device.c.id == name)
                connection.execute(change.values(problem=problem.replace("\0", "")[:LONGEST]))
        if len(found) < STEP:
            return
        after = found[-1][0]
