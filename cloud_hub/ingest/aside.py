"""Messages that could not be taken: kept with their reason where an operator sees them, so many per device at most."""

from __future__ import annotations

from typing import Literal

from sqlalchemy import delete
from sqlmodel import Session, col, select

from cloud_hub.ingest.reading import Numbered
from cloud_hub.store.tables import Device, SetAside
from fleet.api.devices import SetAsideInfo
from fleet.protocol.bounds import mended
from fleet.protocol.errors import ProtocolError, UnsupportedError, VersionError

Reason = Literal["malformed", "unknown-kind", "other-version", "refused"]
KEPT = 100  # messages per device and reason: a flood of one kind pushes out neither another kind nor another device's
HEAD = 4096  # bytes that are kept of a malformed message; what another version of the hub may take is kept whole
DETAIL = 500  # characters


def reason_of(error: Exception) -> Reason:
    """One word for why a message was set aside; `refused` is what nobody foresaw, the database's refusals above all."""
    if isinstance(error, UnsupportedError):
        return "unknown-kind"
    if isinstance(error, VersionError):
        return "other-version"
    return "malformed" if isinstance(error, ProtocolError) else "refused"


def keep(
    session: Session, device: Device, leaf: str, payload: bytes, error: Exception, number: Numbered | None, now: float
) -> Reason:
    """Keep a message with its reason, and let the device's oldest one of that reason go when there are too many.

    Args:
        device: who sent it, by the broker's word; its count is raised.
        leaf: the last part of the topic.
        error: what was wrong with it.
        number: the record's, where it could be read.
        now: the hub's time, Unix seconds.
    """
    reason = reason_of(error)
    said = str(error) if isinstance(error, ProtocolError) else f"{type(error).__name__}: {error}"
    session.add(
        SetAside(
            device_id=device.id, received_at=now, leaf=leaf, spool=number.spool if number else "",
            seq=number.seq if number else None, reason=reason, detail=mended(said)[:DETAIL],
            payload=payload[:HEAD] if reason == "malformed" else payload,
        )
    )  # fmt: skip
    device.set_aside += 1
    session.add(device)
    session.flush()
    _let_go(session, device.id, reason)
    return reason


def newest(session: Session, device_id: str, limit: int = KEPT) -> list[SetAsideInfo]:
    """A device's set-aside messages for people, newest first; of the bytes only how many are kept."""
    rows = select(SetAside).where(SetAside.device_id == device_id).order_by(col(SetAside.id).desc()).limit(limit)
    return [
        SetAsideInfo(**row.model_dump(exclude={"payload"}), kept_bytes=len(row.payload)) for row in session.exec(rows)
    ]


def _let_go(session: Session, device_id: str, reason: Reason) -> None:
    of_it = (col(SetAside.device_id) == device_id, col(SetAside.reason) == reason)
    first_too_many = select(SetAside.id).where(*of_it).order_by(col(SetAside.id).desc()).offset(KEPT).limit(1)
    session.connection().execute(delete(SetAside).where(*of_it, col(SetAside.id) <= first_too_many.scalar_subquery()))
