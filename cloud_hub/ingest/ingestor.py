"""Batches of messages from the broker: order, one transaction, receipts.

Envelopes are accepted strictly in order (see `fleet.protocol.messages.Envelope`); a record and the
cursor that says it is here are committed together, and only then is the receipt sent. However many messages
there are, a batch is about a dozen statements.

A message that cannot be taken never costs another one. What is wrong with it is nearly always seen before anything is
written; it is then set aside with its reason, and numbered off, so that its device's spool goes on. What nobody
foresaw undoes the batch, which is then written in halves, and the halves in theirs, until the message is found. What
may be the database's fault and not the message's fails the batch, which is then tried again, and in the end in halves.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import msgspec
from sqlmodel import Session

from cloud_hub.context import Hub
from cloud_hub.events.kinds import Event
from cloud_hub.events.outbox import record
from cloud_hub.ingest import aside, records
from cloud_hub.ingest.batch import Arrived, Batch, arrived
from cloud_hub.ingest.clones import Heard
from cloud_hub.ingest.commands import signed_receipt
from cloud_hub.ingest.inbox import Message as Message
from cloud_hub.store import hearing, senders
from cloud_hub.store.engine import is_outage
from cloud_hub.store.senders import Place, Sender
from cloud_hub.store.tables import Setting
from fleet.protocol import topics
from fleet.protocol.errors import ProtocolError
from fleet.protocol.messages import Receipt

log = logging.getLogger(__name__)
Fence = Callable[[Session, Collection[str]], frozenset[str]]
SAY_S = 60.0  # between two log lines about messages of one device that were set aside


class Outgoing(NamedTuple):
    """The messages to publish after the commit."""

    topic: str
    payload: bytes


class Interrupted(Exception):
    """The database failed in the midst of a batch; its cause says how.

    `receipts` are of what is committed, to be sent now, and `rest` are the messages that are to be tried again: not the
    others, since an `online` that is heard twice says that a process has come back.
    """

    def __init__(self, receipts: Sequence[Outgoing], rest: Sequence[Message]) -> None:
        super().__init__(f"{len(rest)} messages are not written")
        self.receipts, self.rest = receipts, rest


class Ingestor:
    """Takes batches; `counts` says how many of each kind were taken, for the metrics."""

    def __init__(self, hub: Hub, fence: Fence = lambda _session, digits: frozenset(digits)) -> None:
        """`fence` says which shards are this hub's until the end of a transaction; see `shards.Shards`."""
        self._hub, self._fence = hub, fence
        self._said: dict[str, float] = {}
        self._heard: dict[str, Heard] = {}  # of committed batches: one that is tried again is heard once
        self.counts: Counter[str] = Counter()

    def take(self, batch: Sequence[Message]) -> list[Outgoing]:
        """Write a batch in one transaction; returns the receipts to send now that it is committed.

        Raises:
            Interrupted: the database fails when it has taken a part of the batch.
            Exception: the database fails, and has taken nothing.
        """
        try:
            return self._write(batch)
        except Exception as error:  # whatever is wrong with one message must not reach the others
            if is_outage(error):
                raise
            if len(batch) == 1:
                return self._write(batch, error)
            log.exception("a batch of %d messages fails, and is written in halves", len(batch))
        return _in_halves(batch, self.take)

    def take_apart(self, batch: Sequence[Message]) -> list[Outgoing]:
        """Write a batch that failed as a whole again and again, in halves until each part is written.

        A message that fails by itself, while the database takes others, is set aside.

        Raises:
            Interrupted: the database takes nothing more.
            Exception: the database takes nothing at all.
        """
        try:
            return self.take(batch)
        except Interrupted as stopped:
            return _and_then(stopped.receipts, stopped.rest, self.take_apart)
        except Exception as error:
            if len(batch) == 1:
                log.exception("a message on %s fails again and again", batch[0].topic[:200])
                return self._give_up(batch[0], error)
        return _in_halves(batch, self.take_apart)

    def _give_up(self, message: Message, error: Exception) -> list[Outgoing]:
        try:
            return self._write([message], error)
        except Exception:
            with self._hub.session() as session:  # raises when it is the database after all, or its disk
                session.merge(Setting(key="ingest-probe", value=repr(self._hub.clock())))
            log.exception("a message on %s is dropped; without a receipt it will come again", message.topic[:200])
            self.counts["dropped"] += 1
            return []

    def _write(self, batch: Sequence[Message], failed: Exception | None = None) -> list[Outgoing]:
        """Write a batch in one transaction; each message of it is set aside when it `failed`."""
        counts: Counter[str] = Counter()
        with self._hub.session() as session:
            now = self._hub.clock()
            messages, known = self._arrived(session, batch, counts)
            spools = {place for one in messages if (place := one.place) and place[1] not in one.sender.cursors}
            work = Batch(self._heard, hearing.known(session, now), now, senders.ends(session, spools))
            for message in messages:
                if failed is None:
                    work.add(message)
                else:
                    work.give_up(message, failed)
            for refused in records.write(session, work.taken, now):
                work.refuse(*refused)
            aside.keep(session, work.aside, now)
            self._audit_clones(session, work)
            receipts = [self._receipt(known[place[0]], place, upto) for place, upto in work.touched.items()]
            senders.keep(session, {one.sender.id: one.sender for one in messages}.values(), work.touched)
        self._heard |= work.heard
        self._committed(work, counts, now)
        return receipts

    def _arrived(
        self, session: Session, batch: Sequence[Message], counts: Counter[str]
    ) -> tuple[list[Arrived], dict[str, Sender]]:
        """The messages of devices that may speak, and all devices that are known."""
        addressed = [(uplink, message) for message in batch if (uplink := self._uplink(message, counts)) is not None]
        ours = self._fence(session, {topics.shard(uplink.device_id) for uplink, _ in addressed})
        names = {uplink.device_id for uplink, _ in addressed if topics.shard(uplink.device_id) in ours}
        known = senders.lock(session, names)
        found = []
        for uplink, message in addressed:
            sender = known.get(uplink.device_id)
            if uplink.device_id not in names:
                counts["elsewhere"] += 1  # its shard is another hub's by now
            elif sender is None or sender.revoked_at is not None:
                counts["unknown"] += 1
            else:
                found.append(arrived(sender, uplink.leaf, message.payload))
        return found, known

    def _uplink(self, message: Message, counts: Counter[str]) -> topics.Uplink | None:
        try:
            return topics.parse_uplink(message.topic, self._hub.config.broker.prefix)
        except ProtocolError as error:  # no device to hold it against: a broker of ours lets none through
            counts["refused"] += 1
            log.debug("a message is refused: %s", error)
            return None

    def _audit_clones(self, session: Session, work: Batch) -> None:
        for device_id, processes, new in work.cloned:
            if new:
                log.warning("two machines connect as %s: was its card copied?", device_id)
                self._hub.audit(session, "ingest", "device.cloned", device_id, {"processes": processes})
                said = f"{processes} processes connect as device {device_id} by turns: was its card copied?"
                event = Event(kind="device.cloned", subject=device_id, message=said, data={"processes": processes})
                record(session, event, self._hub.clock())

    def _receipt(self, sender: Sender, place: Place, upto: int) -> Outgoing:
        signed = signed_receipt(self._hub, sender, Receipt(spool=place[1], committed=upto))
        return Outgoing(topics.command(sender.id, self._hub.config.broker.prefix), msgspec.json.encode(signed))

    def _committed(self, work: Batch, counts: Counter[str], now: float) -> None:
        """Count what was written, and say what was set aside."""
        self.counts += work.counts + counts
        for one in work.aside:
            reason = aside.reason_of(one.error)
            self.counts[reason] += 1
            if abs(now - self._said.get(one.device_id, -SAY_S)) >= SAY_S:
                self._said[one.device_id] = now
                said = str(one.error)[:500]
                log.warning("a %s message of %s is set aside (%s): %s", one.leaf, one.device_id, reason, said)


Take = Callable[[Sequence[Message]], list[Outgoing]]


def _in_halves(batch: Sequence[Message], take: Take) -> list[Outgoing]:
    first, second = batch[: len(batch) // 2], batch[len(batch) // 2 :]
    try:
        receipts = take(first)
    except Interrupted as stopped:
        raise Interrupted(stopped.receipts, [*stopped.rest, *second]) from stopped.__cause__
    return _and_then(receipts, second, take)


def _and_then(receipts: Sequence[Outgoing], rest: Sequence[Message], take: Take) -> list[Outgoing]:
    """Take the rest of a batch of which a part is committed."""
    try:
        return [*receipts, *take(rest)]
    except Interrupted as stopped:
        raise Interrupted([*receipts, *stopped.receipts], stopped.rest) from stopped.__cause__
    except Exception as error:
        raise Interrupted(receipts, rest) from error
