"""One transaction's messages, in memory: which are taken, how far each spool is then, and what is set aside and why.

Envelopes are accepted strictly in order (see `fleet.protocol.messages.Envelope`). Nothing here speaks to the database:
what is needed of it is known before (`store.senders`), and what follows is written after (`records`, `aside`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
from msgspec import Struct

from cloud_hub.ingest import vitals
from cloud_hub.ingest.aside import Unusable
from cloud_hub.ingest.clones import Heard, heard, still_cloned
from cloud_hub.ingest.reading import Numbered, ReadRecord, read_number, read_record, read_status
from cloud_hub.store import quiet
from cloud_hub.store.hearing import Hearing
from cloud_hub.store.senders import Place, Sender
from fleet.protocol import topics
from fleet.protocol.errors import MalformedError, ProtocolError
from fleet.protocol.messages import Status
from fleet.protocol.vitals import Vitals


class CursorStep(Struct, frozen=True, kw_only=True):
    """The effect of one envelope on its spool's cursor: whether its record is written, the new cursor
    position, and how many numbers were given up by the device."""

    accept: bool
    committed: int
    lost: int = 0


def step(committed: int, seq: int, base: int) -> CursorStep:
    """Decide by the rule of acceptance. Pure.

    `seq == committed + 1` is next. A lower one is a duplicate. A higher one is dropped, since the device sends it
    again, unless `base` shows that everything between was given up.

    Args:
        committed: the last number in the database.
        seq: the record's number.
        base: the lowest number that the device still has.
    """
    if base > committed + 1:
        lost = base - committed - 1
        return CursorStep(accept=seq == base, committed=base if seq == base else base - 1, lost=lost)
    if seq == committed + 1:
        return CursorStep(accept=True, committed=seq)
    return CursorStep(accept=False, committed=committed)


@dataclass(frozen=True, slots=True)
class Arrived:
    """A message of a device that is known, `problem` is why its number cannot be read. A status has none."""

    sender: Sender
    leaf: str
    payload: bytes
    number: Numbered | None = None
    problem: ProtocolError | None = None

    @property
    def place(self) -> Place | None:
        """The spool that its record is of."""
        return (self.sender.id, self.number.spool) if self.number is not None else None


class Taken(NamedTuple):
    """A record whose turn it is, checked."""

    message: Arrived
    record: ReadRecord


class Cloned(NamedTuple):
    """A device that several processes use; `new` when that was not known in the last hour."""

    device_id: str
    processes: int
    new: bool


def arrived(sender: Sender, leaf: str, payload: bytes) -> Arrived:
    """Read a message's number, of an envelope that is the sender's own."""
    if leaf == "status":
        return Arrived(sender, leaf, payload)
    try:
        number = read_number(payload)
        if number.device != sender.id:
            raise MalformedError(f"an envelope of {number.device[:64]!r} came from {sender.id!r}", subject=sender.id)
    except ProtocolError as error:
        return Arrived(sender, leaf, payload, problem=error)
    return Arrived(sender, leaf, payload, number)


class Batch:
    """The result of a batch; `add` its messages in their order.

    Args:
        before: the processes that were heard of a device, by its id.
        hub: when nobody of a shard could be heard, by its digit.
        now: the hub's time, Unix seconds.
        ends: how far the spools are that have no cursor.
    """

    def __init__(
        self, before: Mapping[str, Heard], hub: Mapping[str, Hearing], now: float, ends: Mapping[Place, int]
    ) -> None:
        self._before, self._hub, self._now, self._ends = before, hub, now, ends
        self.taken: list[Taken] = []
        self.aside: list[Unusable] = []
        self.cloned: list[Cloned] = []
        self.heard: dict[str, Heard] = {}
        self.touched: dict[Place, int] = {}  # the number up to which a receipt is due
        self.counts: Counter[str] = Counter()

    def add(self, message: Arrived) -> None:
        """Take the next message, or set it aside; what is wrong with it reaches no other."""
        try:
            if message.leaf == "status":
                self._status(message.sender, read_status(message.payload))
            elif message.problem is not None:
                raise message.problem
            elif self._advance(message):
                record = read_record(message.payload)
                self.taken.append(Taken(message, record))
                self.counts[record.envelope.kind] += 1
        except ProtocolError as error:
            self._set_aside(message, error)

    def give_up(self, message: Arrived, error: Exception) -> None:
        """Set a message aside that nobody can write; its number is passed."""
        self._advance(message)
        self._set_aside(message, error)

    def refuse(self, taken: Taken, error: Exception) -> None:
        """Set a record aside that was taken, and for which its device has no room."""
        self.counts[taken.record.envelope.kind] -= 1
        self._set_aside(taken.message, error)

    def _set_aside(self, message: Arrived, error: Exception) -> None:
        sender = message.sender
        sender.set_aside += 1
        self.aside.append(Unusable(sender.id, message.leaf, message.payload, error, message.number))

    def _advance(self, message: Arrived) -> bool:
        """Move the spool's cursor over this number, if it is its turn; whether it is."""
        number, sender = message.number, message.sender
        if number is None:
            return False
        cursor = sender.cursors.get(number.spool)
        if cursor is None:
            cursor = sender.open(number.spool, self._ends.get((sender.id, number.spool), 0))
        result = step(cursor.committed, number.seq, number.base)
        cursor.committed, cursor.used_at = result.committed, self._now
        cursor.lost += result.lost
        self._hear(sender)
        self.touched[sender.id, number.spool] = result.committed
        if not result.accept:
            self.counts["repeated" if number.seq <= result.committed else "early"] += 1
        return result.accept

    def _status(self, sender: Sender, status: Status) -> None:
        """An `online` starts a session; a `lost` counts only for the session it belongs to."""
        if status.state == "online":
            sender.session, sender.online = status.session, True
            self._hear(sender)
            if status.vitals is not None:
                sender.vitals = {"at": self._now, **msgspec.to_builtins(status.vitals)}
                self._count_vitals(sender, status.vitals)
            self._look_for_clones(sender, status.instance or status.session)
        elif status.session == sender.session:
            sender.online = False
        self.counts["status"] += 1

    def _count_vitals(self, sender: Sender, told: Vitals) -> None:
        hour, past = vitals.add(sender.vitals_hour, told, self._now)
        sender.vitals_hour = msgspec.to_builtins(hour)
        if past is not None:
            sender.past_hours[past.begins] = msgspec.to_builtins(past)

    def _hear(self, sender: Sender) -> None:
        quiet.heard(sender, self._now, self._hub[topics.shard(sender.id)])
        sender.last_seen_at = self._now

    def _look_for_clones(self, sender: Sender, name: str) -> None:
        before = self.heard.get(sender.id) or self._before.get(sender.id, Heard())
        after = self.heard[sender.id] = heard(before, name, self._now)
        if not after.cloned or after.names == before.names:
            return
        new = not still_cloned(sender.sessions.get("cloned_at"), self._now)
        self.cloned.append(Cloned(sender.id, len(after.names), new))
        sender.sessions = {**sender.sessions, "cloned_at": self._now, "processes": len(after.names)}
