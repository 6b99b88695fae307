"""Note which devices changed, for the rollouts' steps

By triggers, so that every writer notes it in its own transaction, also a hub of an earlier release beside this one.
A migration that rebuilds one of these tables (SQLite's batch mode) drops its triggers and has to make them again.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0017"
branch_labels = None
depends_on = None

BUCKET_S = 120  # a device that is heard again and again is noted once in so many seconds
KEYS = {"devicemodel": "device_id", "pairevidence": "device_id", "measured": "device_id", "device": "id"}
# What a rollout reads of them; a change of anything else is not noted. All of the other two counts.
READ = {
    "device": ("channel", "labels", "pins", "info", "revoked_at", "quiet_s", "quiet_before_s"),
    "devicemodel": ("state", "target", "active", "rollout", "attempt", "reason", "untried"),
}
DIFFERS = {"sqlite": "{0} IS NOT {1}", "postgresql": "{0} IS DISTINCT FROM {1}"}
BUCKET = {"sqlite": "CAST({0} / {1}.0 AS INTEGER)", "postgresql": "floor({0} / {1}.0)"}
EVENTS = {"insert": "INSERT", "update": "UPDATE", "delete": "DELETE", "heard": "UPDATE"}


def upgrade() -> None:
    """Apply."""
    whole = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "device_change",
        sa.Column("id", whole, nullable=False),
        sa.Column("device_id", sa.String(), nullable=False),
        sa.Column("heard", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    dialect = op.get_bind().dialect.name
    if dialect == "postgresql":  # as ingest goes through them: a trigger's own lock would come in another order
        op.execute("LOCK TABLE device, devicemodel, pairevidence, measured IN SHARE ROW EXCLUSIVE MODE")
    for table in KEYS:
        for what in _events(table):
            if dialect == "postgresql":
                op.execute(_function(table, what))
            op.execute(_trigger(dialect, table, what))


def downgrade() -> None:
    """Undo."""
    postgres = op.get_bind().dialect.name == "postgresql"
    if postgres:
        op.execute("LOCK TABLE device, devicemodel, pairevidence, measured IN ACCESS EXCLUSIVE MODE")
    for table in KEYS:
        for what in _events(table):
            op.execute(f"DROP TRIGGER {_name(table, what)}" + (f" ON {table}" if postgres else ""))
            if postgres:
                op.execute(f"DROP FUNCTION {_name(table, what)}()")
    op.drop_table("device_change")


def _events(table: str) -> list[str]:
    return [what for what in EVENTS if what != "heard" or table == "device"]


def _name(table: str, what: str) -> str:
    return f"note_{table}_{what}"


def _note(table: str, what: str) -> str:
    row, heard = "OLD" if what == "delete" else "NEW", str(what == "heard").upper()
    return f"INSERT INTO device_change (device_id, heard) VALUES ({row}.{KEYS[table]}, {heard})"  # noqa: S608


def _function(table: str, what: str) -> str:
    body = f"BEGIN {_note(table, what)}; RETURN NULL; END"
    return f"CREATE FUNCTION {_name(table, what)}() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$"


def _trigger(dialect: str, table: str, what: str) -> str:
    when = _when(dialect, table, what)
    head = f"CREATE TRIGGER {_name(table, what)} AFTER {EVENTS[what]} ON {table} FOR EACH ROW {when}"
    if dialect == "postgresql":
        return f"{head} EXECUTE FUNCTION {_name(table, what)}()"
    return f"{head} BEGIN {_note(table, what)}; END"


def _when(dialect: str, table: str, what: str) -> str:
    if table not in READ or EVENTS[what] != "UPDATE":
        return ""
    changed = " OR ".join(DIFFERS[dialect].format(f"OLD.{name}", f"NEW.{name}") for name in READ[table])
    if table == "devicemodel":
        return f"WHEN ({changed} OR NEW.state = 'rolled_back')"  # when it said so counts as well
    if what == "update":
        return f"WHEN ({changed})"
    old, new = (BUCKET[dialect].format(f"{row}.last_seen_at", BUCKET_S) for row in ("OLD", "NEW"))
    return f"WHEN ({DIFFERS[dialect].format(old, new)} AND NOT ({changed}))"
