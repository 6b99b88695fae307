"""Deleting a device that was revoked or never came: what is known of it goes, and it stays out.

What remains is what keeps it out: its name, which no other device ever gets, its public key, and the serial numbers of
its certificates until they expire. It is revoked and holds no certificate: by that it is told from one that is shown
(`status.is_gone`). The name of its channel stays, whose retention its samples have. Its entries in the audit log
stay, and its share of a rollout's evidence, which is the rollout's record. A restore to an older day brings back what
the backup knew of it, and not the device (ADR 0031).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import delete
from sqlmodel import Session, SQLModel, col, func, select

from cloud_hub.context import Hub
from cloud_hub.devices.changes import end_access
from cloud_hub.devices.status import is_gone
from cloud_hub.errors import ConflictError, NotFoundError
from cloud_hub.store import bulk
from cloud_hub.store.tables import (
    CertificateRow,
    Device,
    DeviceEvent,
    DeviceModel,
    MeasuredRow,
    OutboxCommand,
    SampleRow,
    SetAside,
    SpoolCursor,
    VitalsHourRow,
    WindowRow,
    WindowSum,
)
from fleet.api.devices import DeletedDevice

STEP = 500  # rows of one transaction, so that ingest waits for none of them for long
STEPS = 40  # transactions of one request
ROWS: tuple[type[SQLModel], ...] = (
    OutboxCommand,
    DeviceModel,
    SetAside,
    SpoolCursor,
    MeasuredRow,
    DeviceEvent,
    WindowRow,
    WindowSum,
    VitalsHourRow,
)
KEPT_S = 2 * 86_400.0  # for which the broker's list still names a certificate that has expired (`broker.revocation`)
NUMBERED = (DeviceEvent, WindowRow)  # whose newest row stays: its number must not be given again


def delete_device(hub: Hub, device_id: str, *, actor: str) -> DeletedDevice:
    """Delete a device; call it again while `left` is true, which also goes on where a call before was cut off.

    Args:
        hub: the hub.
        device_id: the device.
        actor: as in the audit log.

    Raises:
        NotFoundError: no such device, or nothing of it is left.
        ConflictError: it is in use: it was heard, and is not revoked.
    """
    first = _begin(hub, device_id, actor)
    rows = 0
    for _ in range(STEPS):
        with hub.session() as session:
            gone = _some(session, device_id)
        rows += gone
        if gone == 0:
            break
    if not (first or rows):
        raise _unknown(device_id)
    with hub.reading() as session:
        left = _next(session, device_id) is not None
        ours = SampleRow.device_id == device_id, col(SampleRow.deleted_at).is_(None)
        samples = session.exec(select(func.count()).select_from(SampleRow).where(*ours)).one()
    return DeletedDevice(id=device_id, rows=rows, samples=samples, left=left)


def _begin(hub: Hub, device_id: str, actor: str) -> bool:
    """Forget the device itself; False when that was done before. What hangs on it is nobody's from then on."""
    with hub.session() as session:
        row = session.get(Device, device_id, with_for_update=True)
        if row is None:
            raise _unknown(device_id)
        if is_gone(row):
            return False
        if row.revoked_at is None and row.last_seen_at is not None:
            raise ConflictError(
                f"device {device_id!r} was heard and is not revoked; it would go on with what it has",
                subject=device_id,
                hint=f"first: fleet device revoke {device_id}",
            )
        end_access(hub, session, row, actor)
        _forget(session, row, hub.clock())
        hub.audit(session, actor, "device.delete", device_id)
        return True


def _forget(session: Session, row: Device, now: float) -> None:
    row.certificate = row.mqtt_password = row.session = ""
    row.labels, row.pins, row.info, row.sessions, row.vitals, row.vitals_hour = {}, {}, {}, {}, {}, {}
    row.last_seen_at, row.set_aside = None, 0
    session.add(row)
    ours = col(CertificateRow.device_id) == row.id
    session.connection().execute(delete(CertificateRow).where(ours, col(CertificateRow.expires_at) < now - KEPT_S))


def _some(session: Session, device_id: str) -> int:
    """Delete some rows; returns how many, 0 when there are no more."""
    found = _next(session, device_id)
    if found is None:
        return 0
    bulk.delete(session, *found)
    return len(found.rows)


class _Rows(NamedTuple):
    table: type[SQLModel]
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


def _next(session: Session, device_id: str) -> _Rows | None:
    """Return the rows to delete next: at most STEP of one table, by their primary key; None when none are left."""
    for table in ROWS:
        columns = tuple(column.name for column in table.__table__.primary_key)  # type: ignore[attr-defined]
        attributes = [getattr(table, name) for name in columns]
        query = select(*attributes).where(table.device_id == device_id)  # type: ignore[attr-defined]
        if table in NUMBERED:
            query = query.where(attributes[0] < select(func.max(attributes[0])).scalar_subquery())
        found = [tuple(key) for key in session.connection().execute(query.limit(STEP))]
        if found:
            return _Rows(table, columns, found)
    return None


def _unknown(device_id: str) -> NotFoundError:
    return NotFoundError(f"no device {device_id!r}", subject=device_id, hint="list them: fleet device list")
