"""A number that rises with every change of who may call the hub and which releases it serves.

What a replica keeps in memory of tokens, devices and releases holds as long as this number does. Triggers of the
database raise it, in the transaction that makes the change: no program that changes a row can forget it, not an older
version of the hub and not a person with `psql`. Since the row of the number is locked until that transaction ends,
whoever reads the number N sees the changes that made it N, and none that will make it N + 1.

What changes with every message or enrolment raises nothing: a device's state, and claim tokens, which open nothing.
"""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Connection, text
from sqlmodel import Session

from cloud_hub.store.tables import Setting

KEY = "access_version"
_KEPT = f"setting SET value = {{}} WHERE key = '{KEY}';"


class _Watched(NamedTuple):
    table: str
    columns: str
    condition: str = ""  # on NEW, of an insert


_TABLES = (
    _Watched("token", "kind, secret_hash, role, scope, rate_per_s, expires_at, revoked_at", "NEW.kind <> 'claim'"),
    _Watched("device", "revoked_at", "NEW.revoked_at IS NOT NULL"),
    _Watched("release", "status, manifest"),
)
_FUNCTION = "edgeloop_access_changed"


def read(session: Session) -> int | None:
    """The number; None where it is missing, which is a reason to keep nothing in memory."""
    row = session.get(Setting, KEY)
    return int(row.value) if row is not None and row.value.isdigit() else None


def create(connection: Connection) -> None:
    """Make the number and its triggers; what is there already is made anew."""
    drop(connection)
    connection.execute(text("INSERT INTO setting (key, value) VALUES (:key, '0')"), {"key": KEY})
    postgres = connection.dialect.name == "postgresql"
    if postgres:
        body = f"UPDATE {_KEPT.format('(value::bigint + 1)::text')} RETURN NULL;"
        connection.exec_driver_sql(
            f"CREATE FUNCTION {_FUNCTION}() RETURNS trigger AS $$ BEGIN {body} END $$ LANGUAGE plpgsql"
        )
    for name, event, table, condition in _triggers():
        when = f" WHEN ({condition})" if condition else ""
        if postgres:
            what = f" FOR EACH ROW{when} EXECUTE FUNCTION {_FUNCTION}()"
        else:
            body = f"UPDATE {_KEPT.format('CAST(value AS INTEGER) + 1')}"
            what = f" FOR EACH ROW{when} BEGIN {body} END"
        connection.exec_driver_sql(f'CREATE TRIGGER {name} AFTER {event} ON "{table}"{what}')


def drop(connection: Connection) -> None:
    """Undo `create`."""
    postgres = connection.dialect.name == "postgresql"
    for name, _, table, _ in _triggers():
        connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {name}" + (f' ON "{table}"' if postgres else ""))
    if postgres:
        connection.exec_driver_sql(f"DROP FUNCTION IF EXISTS {_FUNCTION}()")
    connection.execute(text("DELETE FROM setting WHERE key = :key"), {"key": KEY})


def _triggers() -> list[tuple[str, str, str, str]]:
    """Name, event, table and condition of each."""
    found = []
    for table, columns, condition in _TABLES:
        events = (("insert", "INSERT", condition), ("update", f"UPDATE OF {columns}", ""), ("delete", "DELETE", ""))
        found += [(f"access_{table}_{name}", event, table, when) for name, event, when in events]
    return found
