"""The devices that changed since the last look, for one reader at a time.

Triggers note it in the transaction of whoever writes (see migration 0020), so that a change is here when it can be
seen, and not before. The reader takes what is here, deleting it. When another hub has taken something meanwhile, the
reader is told so, and reads everything anew: nothing depends on the order in which transactions end.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from sqlmodel import Session, col, delete, select

from cloud_hub.store.engine import lock_name
from cloud_hub.store.tables import DeviceChange, Setting

KEY = "device-changes-reader"
BUCKET_S = 120.0  # `floor(last_seen_at / …)`: a device that is heard again and again is noted once in that time


class Changes(NamedTuple):
    """Ids of the devices that changed, and of those of which nothing is new but when they were heard."""

    devices: set[str]
    heard: set[str]


def take(session: Session, reader: str) -> Changes | None:
    """Take the changes since the reader took some last; None when it has to read everything first.

    Args:
        session: a writing transaction.
        reader: any text that no other reader has.
    """
    lock_name(session, KEY)
    last = session.get(Setting, KEY, populate_existing=True)
    taken = delete(DeviceChange).returning(col(DeviceChange.device_id), col(DeviceChange.heard))
    changes = _sorted_out(session.connection().execute(taken))
    if last is not None and last.value == reader:
        return changes
    session.merge(Setting(key=KEY, value=reader))
    return None


def since(session: Session, reader: str) -> Changes | None:
    """Return the changes since `take`, and leave them to be taken; None when another reader has taken some."""
    found = select(DeviceChange.device_id, DeviceChange.heard).distinct()
    changes = _sorted_out(session.connection().execute(found))
    value = session.exec(select(Setting.value).where(Setting.key == KEY)).first()  # after the changes were read
    return changes if value == reader else None


def _sorted_out(rows: Iterable[Any]) -> Changes:
    found = Changes(set(), set())
    for device_id, heard in rows:
        (found.heard if heard else found.devices).add(device_id)
    return found
