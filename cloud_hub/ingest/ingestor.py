"""Batches of messages from the broker: order, one transaction, receipts.

Envelopes are accepted strictly in order (see `fleet.protocol.messages.Envelope`); a record and the
cursor that says it is here are committed together, and only then is the receipt sent.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from msgspec import Struct
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session

from cloud_hub.context import Hub
from cloud_hub.ingest import records
from cloud_hub.ingest.commands import signed_receipt
from cloud_hub.store.tables import Device, SpoolCursor
from fleet.protocol import topics
from fleet.protocol.errors import MalformedError, ProtocolError
from fleet.protocol.messages import Envelope, Receipt, Status, decode_control, decode_envelope

log = logging.getLogger(__name__)


class Message(NamedTuple):
    """What arrived."""

    topic: str
    payload: bytes


class Outgoing(NamedTuple):
    """What is to be published, after the commit."""

    topic: str
    payload: bytes


class Step(Struct, frozen=True, kw_only=True):
    """What one envelope does to its spool's cursor: whether its record is written, the new cursor
    position, and how many numbers were given up by the device."""

    accept: bool
    committed: int
    lost: int = 0


def step(committed: int, seq: int, base: int) -> Step:
    """The rule of acceptance. Pure.

    `seq == committed + 1` is next. A lower one is a duplicate. A higher one is dropped, since the
    device sends it again, unless `base` shows that everything between was given up.
    """
    if base > committed + 1:
        lost = base - committed - 1
        return Step(accept=seq == base, committed=base if seq == base else base - 1, lost=lost)
    if seq == committed + 1:
        return Step(accept=True, committed=seq)
    return Step(accept=False, committed=committed)


class Ingestor:
    """Takes batches; `counts` says how many of each kind were taken, for the metrics."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.counts: Counter[str] = Counter()

    def take(self, batch: Sequence[Message]) -> list[Outgoing]:
        """Write a batch in one transaction; returns the receipts to send now that it is committed."""
        touched: dict[tuple[str, str], int] = {}
        with self._hub.session() as session:
            devices: dict[str, Device | None] = {}
            for message in batch:
                try:
                    self._one(session, devices, message, touched)
                except ProtocolError as error:
                    self.counts["refused"] += 1
                    log.warning("a message on %s is refused: %s", message.topic[:200], error)
            session.flush()
            return [self._receipt(session, device_id, spool, upto) for (device_id, spool), upto in touched.items()]

    def _one(
        self, session: Session, devices: dict[str, Device | None], message: Message, touched: dict[tuple[str, str], int]
    ) -> None:
        uplink = topics.parse_uplink(message.topic, self._hub.config.broker.prefix)
        if uplink.device_id not in devices:
            devices[uplink.device_id] = session.get(Device, uplink.device_id, with_for_update=True)
        device = devices[uplink.device_id]
        if device is None or device.revoked_at is not None:
            self.counts["unknown"] += 1
            return
        if uplink.leaf == "status":
            self._status(device, decode_control(message.payload, Status))
        else:
            envelope = decode_envelope(message.payload)
            if envelope.device != device.id:
                raise MalformedError(f"an envelope of {envelope.device!r} came from {device.id!r}", subject=device.id)
            touched[device.id, envelope.spool] = self._envelope(session, device, envelope)
        session.add(device)

    def _status(self, device: Device, status: Status) -> None:
        """An `online` starts a session; a `lost` counts only for the session it belongs to."""
        if status.state == "online":
            device.session, device.online, device.last_seen_at = status.session, True, self._hub.clock()
        elif status.session == device.session:
            device.online = False
        self.counts["status"] += 1

    def _envelope(self, session: Session, device: Device, envelope: Envelope) -> int:
        cursor = session.get(SpoolCursor, (device.id, envelope.spool))
        if cursor is None:
            cursor = SpoolCursor(device_id=device.id, spool=envelope.spool)
        result = step(cursor.committed, envelope.seq, envelope.base)
        if result.accept:
            self.counts[self._write(session, device, envelope)] += 1
        else:
            self.counts["repeated" if envelope.seq <= cursor.committed else "early"] += 1
        cursor.committed, cursor.lost = result.committed, cursor.lost + result.lost
        device.last_seen_at = self._hub.clock()
        session.add(cursor)
        session.flush()
        return cursor.committed

    def _write(self, session: Session, device: Device, envelope: Envelope) -> str:
        """Write one record; one that the database refuses must not take its batch, or the fleet, with it."""
        now = self._hub.clock()
        try:
            with session.begin_nested():
                return records.write(session, device, envelope, now)
        except (SQLAlchemyError, OverflowError) as error:
            log.warning("a %s record of %s is refused by the database: %s", envelope.kind, device.id, error)
            records.refuse(session, envelope, now, f"the database refuses it: {type(error).__name__}")
            return records.MALFORMED

    def _receipt(self, session: Session, device_id: str, spool: str, upto: int) -> Outgoing:
        device = session.get(Device, device_id)
        assert device is not None
        signed = signed_receipt(self._hub, device, Receipt(spool=spool, committed=upto))
        session.add(device)
        return Outgoing(topics.command(device_id, self._hub.config.broker.prefix), msgspec.json.encode(signed))
