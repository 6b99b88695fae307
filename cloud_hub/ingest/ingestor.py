"""Batches of messages from the broker: order, one transaction, receipts.

Envelopes are accepted strictly in order (see `fleet.protocol.messages.Envelope`); a record and the
cursor that says it is here are committed together, and only then is the receipt sent.

A message that cannot be taken never costs another one: it is undone by itself, set aside with its
reason, and numbered off, so that its device's spool goes on. What may be the database's fault and
not the message's fails the batch, which is then tried again, and in the end message by message.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from msgspec import Struct
from sqlmodel import Session, col, select

from cloud_hub.context import Hub
from cloud_hub.ingest import aside, records
from cloud_hub.ingest.clones import Heard, heard, still_cloned
from cloud_hub.ingest.commands import signed_receipt
from cloud_hub.ingest.inbox import Message as Message
from cloud_hub.ingest.reading import Numbered, read_number, read_record, read_status
from cloud_hub.store import hearing, quiet
from cloud_hub.store.engine import is_outage
from cloud_hub.store.tables import Device, Setting, SpoolCursor
from fleet.protocol import topics
from fleet.protocol.errors import MalformedError, ProtocolError
from fleet.protocol.messages import Receipt, Status

log = logging.getLogger(__name__)
SPOOLS = 32  # cursors per device: a device begins a new spool only when its file was damaged
SAY_S = 60.0  # between two log lines about messages of one device that were set aside

Touched = dict[tuple[str, str], int]  # (device, spool) -> the number up to which a receipt is due


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
        self._said: dict[str, float] = {}
        self._heard: dict[str, Heard] = {}  # of committed batches: one that is tried again is heard once
        self._hearing: dict[str, Heard] = {}
        self._hub_heard = hearing.Hearing(noted_at=0.0)
        self.counts: Counter[str] = Counter()

    def take(self, batch: Sequence[Message]) -> list[Outgoing]:
        """Write a batch in one transaction; returns the receipts to send now that it is committed."""
        touched: Touched = {}
        self._hearing = {}
        with self._hub.session() as session:
            self._hub_heard = hearing.known(session, self._hub.clock())
            addressed = [(uplink, message) for message in batch if (uplink := self._uplink(message)) is not None]
            devices = _locked(session, {uplink.device_id for uplink, _ in addressed})
            for uplink, message in addressed:
                device = devices.get(uplink.device_id)
                if device is None or device.revoked_at is not None:
                    self.counts["unknown"] += 1
                else:
                    self._one(session, device, uplink.leaf, message.payload, touched)
            receipts = self._receipts(session, touched)
        self._heard |= self._hearing
        return receipts

    def take_apart(self, batch: Sequence[Message]) -> list[Outgoing]:
        """Write a batch that failed as a whole, each message in a transaction of its own.

        One that fails by itself, while the database takes others, is set aside.

        Raises:
            Exception: the database takes nothing at all; what was written so far stays.
        """
        receipts: list[Outgoing] = []
        for message in batch:
            try:
                receipts += self.take([message])
            except Exception as error:
                log.exception("a message on %s fails again and again", message.topic[:200])
                receipts += self._give_up(message, error)
        return receipts

    def _give_up(self, message: Message, error: Exception) -> list[Outgoing]:
        try:
            return self._alone(message, error)
        except Exception:
            with self._hub.session() as session:  # raises when it is the database after all, or its disk
                session.merge(Setting(key="ingest-probe", value=repr(self._hub.clock())))
            log.exception("a message on %s is dropped; without a receipt it will come again", message.topic[:200])
            self.counts["dropped"] += 1
            return []

    def _alone(self, message: Message, error: Exception) -> list[Outgoing]:
        uplink, touched = topics.parse_uplink(message.topic, self._hub.config.broker.prefix), Touched()
        with self._hub.session() as session:
            device = _locked(session, {uplink.device_id})[uplink.device_id]
            self._set_aside(session, device, uplink.leaf, message.payload, error, touched)
            return self._receipts(session, touched)

    def _uplink(self, message: Message) -> topics.Uplink | None:
        try:
            return topics.parse_uplink(message.topic, self._hub.config.broker.prefix)
        except ProtocolError as error:  # no device to hold it against: a broker of ours lets none through
            self.counts["refused"] += 1
            log.debug("a message is refused: %s", error)
            return None

    def _one(self, session: Session, device: Device, leaf: str, payload: bytes, touched: Touched) -> None:
        try:
            with session.begin_nested():
                if leaf == "status":
                    self._status(session, device, read_status(payload))
                else:
                    self._envelope(session, device, payload, touched)
                session.add(device)
        except Exception as error:  # whatever is wrong with one message must not reach the others
            if is_outage(error):
                raise
            self._set_aside(session, device, leaf, payload, error, touched)

    def _status(self, session: Session, device: Device, status: Status) -> None:
        """An `online` starts a session; a `lost` counts only for the session it belongs to."""
        if status.state == "online":
            device.session, device.online = status.session, True
            self._hear(device)
            self._look_for_clones(session, device, status.instance or status.session)
        elif status.session == device.session:
            device.online = False
        self.counts["status"] += 1

    def _hear(self, device: Device) -> float:
        """The device was heard now; returns the time."""
        now = self._hub.clock()
        quiet.heard(device, now, self._hub_heard)
        device.last_seen_at = now
        return now

    def _look_for_clones(self, session: Session, device: Device, name: str) -> None:
        now = self._hub.clock()
        before = self._hearing.get(device.id) or self._heard.get(device.id, Heard())
        after = self._hearing[device.id] = heard(before, name, now)
        if not after.cloned or after.names == before.names:
            return
        if not still_cloned(device.sessions.get("cloned_at"), now):
            log.warning("two machines connect as %s: was its card copied?", device.id)
            self._hub.audit(session, "ingest", "device.cloned", device.id, {"processes": len(after.names)})
        device.sessions = {**device.sessions, "cloned_at": now, "processes": len(after.names)}

    def _envelope(self, session: Session, device: Device, payload: bytes, touched: Touched) -> None:
        number = _number_of(device, payload)
        result = self._advance(session, device, number)
        kind = "repeated" if number.seq <= result.committed else "early"
        if result.accept:
            kind = records.write(session, device, read_record(payload), self._hub.clock())
        session.flush()
        self.counts[kind] += 1
        touched[device.id, number.spool] = result.committed

    def _advance(self, session: Session, device: Device, number: Numbered) -> Step:
        """Move the spool's cursor over this number, if it is its turn."""
        cursor = session.get(SpoolCursor, (device.id, number.spool))
        if cursor is None:
            _make_room(session, device.id)
            cursor = SpoolCursor(device_id=device.id, spool=number.spool)
        result = step(cursor.committed, number.seq, number.base)
        cursor.committed, cursor.lost = result.committed, cursor.lost + result.lost
        cursor.used_at = self._hear(device)
        session.add(cursor)
        return result

    def _set_aside(
        self, session: Session, device: Device, leaf: str, payload: bytes, error: Exception, touched: Touched
    ) -> None:
        number = None
        if leaf != "status":
            try:
                number = _number_of(device, payload)
            except ProtocolError:
                log.debug("a message of %s has no number", device.id)
        if number is not None:
            touched[device.id, number.spool] = self._advance(session, device, number).committed
        now = self._hub.clock()
        reason = aside.keep(session, device, leaf, payload, error, number, now)
        self.counts[reason] += 1
        if abs(now - self._said.get(device.id, -SAY_S)) >= SAY_S:
            self._said[device.id] = now
            log.warning("a %s message of %s is set aside (%s): %s", leaf, device.id, reason, str(error)[:500])

    def _receipts(self, session: Session, touched: Touched) -> list[Outgoing]:
        session.flush()
        return [self._receipt(session, device_id, spool, upto) for (device_id, spool), upto in touched.items()]

    def _receipt(self, session: Session, device_id: str, spool: str, upto: int) -> Outgoing:
        device = session.get(Device, device_id)
        assert device is not None
        signed = signed_receipt(self._hub, device, Receipt(spool=spool, committed=upto))
        session.add(device)
        return Outgoing(topics.command(device_id, self._hub.config.broker.prefix), msgspec.json.encode(signed))


def _locked(session: Session, ids: set[str]) -> dict[str, Device]:
    """The devices, locked in the order of their ids, so that two replicas never wait for each other in a circle."""
    rows = select(Device).where(col(Device.id).in_(ids)).order_by(col(Device.id)).with_for_update()
    return {device.id: device for device in session.exec(rows)}


def _number_of(device: Device, payload: bytes) -> Numbered:
    """The record's number, of an envelope that is this device's own; MalformedError, VersionError."""
    number = read_number(payload)
    if number.device != device.id:
        raise MalformedError(f"an envelope of {number.device[:64]!r} came from {device.id!r}", subject=device.id)
    return number


def _make_room(session: Session, device_id: str) -> None:
    """Forget the device's longest unused spool when it has too many."""
    by_use = col(SpoolCursor.used_at).desc(), col(SpoolCursor.spool)
    held = session.exec(select(SpoolCursor).where(SpoolCursor.device_id == device_id).order_by(*by_use)).all()
    for cursor in held[SPOOLS - 1 :]:
        session.delete(cursor)
    session.flush()
