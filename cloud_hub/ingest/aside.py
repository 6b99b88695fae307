"""Messages that could not be taken: kept with their reason where an operator sees them, so many per device at most."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Literal, NamedTuple

from sqlalchemy import delete, func
from sqlmodel import Session, col, select

from cloud_hub.ingest.reading import Numbered
from cloud_hub.store import bulk
from cloud_hub.store.tables import SetAside
from fleet.api.devices import SetAsideInfo
from fleet.protocol.bounds import mended
from fleet.protocol.errors import ProtocolError, UnsupportedError, VersionError

Reason = Literal["malformed", "unknown-kind", "other-version", "refused"]
KEPT = 100  # messages per device and reason: a flood of one kind pushes out neither another kind nor another device's
HEAD = 4096  # bytes that are kept of a malformed message; what another version of the hub may take is kept whole
DETAIL = 500  # characters


class Unusable(NamedTuple):
    """A message that could not be taken, and what was wrong with it.

    `device_id` sent it, by the broker's word; `leaf` is the last part of the topic, `number` the record's where it
    could be read.
    """

    device_id: str
    leaf: str
    payload: bytes
    error: Exception
    number: Numbered | None = None


def reason_of(error: Exception) -> Reason:
    """One word for why a message was set aside; `refused` is what nobody foresaw, the database's refusals above all."""
    if isinstance(error, UnsupportedError):
        return "unknown-kind"
    if isinstance(error, VersionError):
        return "other-version"
    return "malformed" if isinstance(error, ProtocolError) else "refused"


def keep(session: Session, messages: Sequence[Unusable], now: float) -> None:
    """Keep messages with their reasons, and let a device's oldest ones of a reason go when there are too many.

    Args:
        now: the hub's time, Unix seconds.
    """
    if not messages:
        return
    columns = ("device_id", "received_at", "leaf", "spool", "seq", "reason", "detail", "payload")
    bulk.insert(session, SetAside, columns, [_row(message, now) for message in messages])
    _let_go(session, {message.device_id for message in messages})


def _row(message: Unusable, now: float) -> tuple[Any, ...]:
    error, number, reason = message.error, message.number, reason_of(message.error)
    said = str(error) if isinstance(error, ProtocolError) else f"{type(error).__name__}: {error}"
    kept = message.payload[:HEAD] if reason == "malformed" else message.payload
    spool, seq = (number.spool, number.seq) if number is not None else ("", None)
    return message.device_id, now, message.leaf, spool, seq, reason, mended(said)[:DETAIL], kept


def newest(session: Session, device_id: str, limit: int = KEPT) -> list[SetAsideInfo]:
    """A device's set-aside messages for people, newest first; of the bytes only how many are kept."""
    rows = select(SetAside).where(SetAside.device_id == device_id).order_by(col(SetAside.id).desc()).limit(limit)
    return [
        SetAsideInfo(**row.model_dump(exclude={"payload"}), kept_bytes=len(row.payload)) for row in session.exec(rows)
    ]


def _let_go(session: Session, devices: Collection[str]) -> None:
    newest_first = func.row_number().over(
        partition_by=(SetAside.device_id, SetAside.reason),
        order_by=col(SetAside.id).desc(),
    )
    ranked = select(SetAside.id, newest_first.label("rank")).where(col(SetAside.device_id).in_(devices)).subquery()
    too_many = select(ranked.c.id).where(ranked.c.rank > KEPT)
    session.connection().execute(delete(SetAside).where(col(SetAside.id).in_(too_many)))
