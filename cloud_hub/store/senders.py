"""Devices that have sent something, and how far their spools are: read, changed in memory, and written together.

A batch of messages needs a few columns of many devices. They are read by one statement and locked until the transaction
ends, in the order of their ids, so that two hubs never wait for each other in a circle; then each device is one row of
one update, and each spool one of one upsert, however many of its records have come.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import func
from sqlmodel import Session, col, select

from cloud_hub.store import bulk
from cloud_hub.store.tables import Device, DeviceEvent, SpoolCursor, VitalsHourRow, WindowRow
from cloud_hub.store.types import document_text

SPOOLS = 32  # cursors per device: a device begins a new spool at each connection, and sends what it left before first
WORD = 200  # characters of a problem
Place = tuple[str, str]  # a device and its spool

_READ = (
    Device.id,
    Device.channel,
    Device.revoked_at,
    Device.session,
    Device.online,
    Device.last_seen_at,
    Device.command_counter,
    Device.set_aside,
    Device.sessions,
    Device.quiet_s,
    Device.quiet_before_s,
    Device.quiet_since,
    Device.vitals,
    Device.vitals_hour,
)
_WRITTEN = (
    "session",
    "online",
    "last_seen_at",
    "command_counter",
    "set_aside",
    "sessions",
    "quiet_s",
    "quiet_before_s",
    "quiet_since",
    "vitals",
    "vitals_hour",
    "id",
)

_HOUR = tuple(VitalsHourRow.model_fields)


@dataclass(slots=True)
class Cursor:
    """The position of a spool: see `tables.SpoolCursor`."""

    committed: int = 0
    lost: int = 0
    used_at: float = 0.0


@dataclass(slots=True)
class Sender:
    """A device as ingest knows and changes it; the names are the columns' of `tables.Device`.

    `info` is the document that it has reported in this batch, if any; `past_hours` are those of its vitals that were
    over in it, by when they begin.
    """

    id: str
    channel: str
    revoked_at: float | None
    session: str
    online: bool
    last_seen_at: float | None
    command_counter: int
    set_aside: int
    sessions: dict[str, Any]
    quiet_s: float
    quiet_before_s: float
    quiet_since: float
    vitals: dict[str, Any]
    vitals_hour: dict[str, Any]
    info: dict[str, Any] | None = None
    past_hours: dict[int, dict[str, Any]] = field(default_factory=dict)
    cursors: dict[str, Cursor] = field(default_factory=dict)
    _dropped: dict[str, int] = field(default_factory=dict)

    def open(self, spool: str, committed: int) -> Cursor:
        """Begin to count a spool, and forget the longest unused ones when the device has too many."""
        by_use = sorted(self.cursors, key=lambda name: (-self.cursors[name].used_at, name))
        for name in by_use[SPOOLS - 1 :]:
            self._dropped[name] = self.cursors.pop(name).committed
        cursor = self.cursors[spool] = Cursor(max(committed, self._dropped.get(spool, 0)))
        return cursor

    def dropped(self) -> set[str]:
        """Spools that are to be forgotten in the database, too."""
        return self._dropped.keys() - self.cursors.keys()


def lock(session: Session, ids: Collection[str]) -> dict[str, Sender]:
    """The devices of these ids that there are, with their spools, locked until the transaction ends."""
    rows = select(*_READ).where(col(Device.id).in_(ids)).order_by(col(Device.id)).with_for_update()  # type: ignore[call-overload]
    found = {row.id: Sender(*row) for row in session.connection().execute(rows)}
    columns = (SpoolCursor.device_id, SpoolCursor.spool, SpoolCursor.committed, SpoolCursor.lost, SpoolCursor.used_at)
    cursors = select(*columns).where(col(SpoolCursor.device_id).in_(ids))  # type: ignore[call-overload]
    for device_id, spool, *fields in session.connection().execute(cursors):
        if device_id in found:
            found[device_id].cursors[spool] = Cursor(*fields)
    return found


def ends(session: Session, places: Collection[Place]) -> dict[Place, int]:
    """Return the ends of spools without a cursor: a forgotten one that comes again goes on where its records end."""
    found = dict.fromkeys(places, 0)
    for kind in (DeviceEvent, WindowRow) if places else ():
        place = bulk.listed(session, kind, ("device_id", "spool"), places)
        last = select(func.max(kind.seq)).where(bulk.same(kind, place)).scalar_subquery()  # the end of an index
        rows = select(place.c.device_id, place.c.spool, last)
        for device_id, spool, seq in session.connection().execute(rows):
            found[device_id, spool] = max(found[device_id, spool], seq or 0)
    return found


def keep(session: Session, senders: Iterable[Sender], used: Collection[Place]) -> None:
    """Write what has changed: of each device a row, and of each spool in `used` its cursor.

    Args:
        session: an open one; the caller commits.
        senders: devices with their changes.
        used: the spools whose cursors have moved.
    """
    changed = sorted(senders, key=lambda sender: sender.id)
    bulk.update(session, Device, _WRITTEN, [_row(sender) for sender in changed])
    told = [
        (document_text(sender.info), problem_word(sender.info), sender.id)
        for sender in changed
        if sender.info is not None
    ]
    bulk.update(session, Device, ("info", "problem", "id"), told)
    hours = [
        tuple(hour.get(name) for name in _HOUR)
        for sender in changed
        for hour in ({"device_id": sender.id, **past} for past in sender.past_hours.values())
    ]
    bulk.upsert(session, VitalsHourRow, _HOUR, hours, most="heartbeats")  # an hour that a leap of the clock began anew
    dropped = [(sender.id, spool) for sender in changed for spool in sender.dropped()]
    bulk.delete(session, SpoolCursor, ("device_id", "spool"), dropped)
    cursors = [
        (sender.id, spool, cursor.committed, cursor.lost, 0, cursor.used_at)
        for sender in changed
        for spool, cursor in sender.cursors.items()
        if (sender.id, spool) in used
    ]
    columns = ("device_id", "spool", "committed", "lost", "receipted", "used_at")
    bulk.upsert(session, SpoolCursor, columns, cursors, only_new=("receipted",))


def problem_word(info: Mapping[str, Any]) -> str:
    """The word for what is wrong, out of a device's own document: empty where it says none, cut where it is no word."""
    problem = info.get("problem", "")
    return problem.replace("\0", "")[:WORD] if isinstance(problem, str) else ""


def _row(sender: Sender) -> tuple[Any, ...]:
    return (
        sender.session,
        sender.online,
        sender.last_seen_at,
        sender.command_counter,
        sender.set_aside,
        document_text(sender.sessions),
        sender.quiet_s,
        sender.quiet_before_s,
        sender.quiet_since,
        document_text(sender.vitals),
        document_text(sender.vitals_hour),
        sender.id,
    )
