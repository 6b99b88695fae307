"""A device's numbered records until the hub's receipt: in memory, sent again by the agent's own rule. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
import numpy as np

from edge_agent.mqtt import gobackn
from fleet.protocol import topics
from fleet.protocol.codec import encode_msgpack
from fleet.protocol.messages import Envelope, Receipt

SPOOLED = 5000  # records kept; then the oldest give way
NEVER = float("inf")


class Send(NamedTuple):
    """Publish `payload` on `topic`."""

    topic: str
    payload: bytes


class SimulatedRecord(NamedTuple):
    """One numbered record: `at` by the device's clock, `made` by the simulation's."""

    seq: int
    at: float
    made: float
    kind: str
    body: bytes


@dataclass
class Counts:
    """The counts of the devices of a process; `delays` are seconds from a record to its receipt."""

    records: int = 0
    sent: int = 0
    receipted: int = 0
    hostile: int = 0
    lost: int = 0
    commands: int = 0
    refused: int = 0
    looks: int = 0
    delays: list[float] = field(default_factory=list)


class Outbox:
    """The spool `id` of one device; `now` counts seconds from the simulation's start."""

    def __init__(self, device_id: str, prefix: str, spool: str, counts: Counts) -> None:
        self.id, self._device, self._prefix, self._counts = spool, device_id, prefix, counts
        self._records: deque[SimulatedRecord] = deque()
        self._sender = gobackn.Sender()
        self.top = 0

    def __len__(self) -> int:
        return len(self._records)

    @property
    def online(self) -> bool:
        """True while there is a connection to send on."""
        return self._sender.connected

    @property
    def again_at(self) -> float:
        """The moment at which records in flight are sent again."""
        waiting = self._sender.connected and self._sender.sent > self._sender.committed
        return self._sender.since + self._sender.timeout_s if waiting else NEVER

    def connected(self, now: float) -> None:
        """A new connection: what has no receipt is sent again."""
        self._sender = gobackn.connected(self._sender, now)

    def disconnected(self) -> None:
        """The connection is gone."""
        self._sender = gobackn.disconnected(self._sender)

    def add(self, kind: str, body: msgspec.Struct, *, at: float, now: float) -> None:
        """Number a record; of too many the oldest gives way."""
        self.top += 1
        self._counts.records += 1
        self._records.append(SimulatedRecord(self.top, at, now, kind, encode_msgpack(body)))
        if len(self._records) > SPOOLED:
            self._records.popleft()
            self._counts.lost += 1
            self._sender = gobackn.lost(self._sender, self._records[0].seq - 1)

    def receipt(self, receipt: Receipt, now: float) -> None:
        """Drop the records that the hub has committed."""
        if receipt.spool != self.id:
            return
        upto = min(receipt.committed, self.top)
        while self._records and self._records[0].seq <= upto:
            self._counts.receipted += 1
            self._counts.delays.append(now - self._records.popleft().made)
        self._sender = gobackn.receipt(self._sender, upto, now)

    def due(self, now: float, rng: np.random.Generator, duplicates: float) -> list[Send]:
        """Return the records to be sent now; the share `duplicates` of them twice."""
        self._sender = gobackn.tick(self._sender, now)
        room, first = gobackn.room(self._sender), self._sender.sent + 1
        if not room or not self._records or self._records[-1].seq < first:
            return []
        base = self._records[0].seq
        start = max(0, first - base)
        chosen = [self._records[i] for i in range(start, min(start + room, len(self._records)))]
        self._sender = gobackn.sending(self._sender, chosen[-1].seq, now)
        found = []
        for record in chosen:
            found += [self._send(record, base)] * (2 if duplicates and rng.random() < duplicates else 1)
        self._counts.sent += len(found)
        return found

    def _send(self, record: SimulatedRecord, base: int) -> Send:
        envelope = Envelope(
            device=self._device,
            spool=self.id,
            seq=record.seq,
            base=base,
            at=record.at,
            kind=record.kind,
            body=msgspec.Raw(record.body),
        )
        leaf: topics.Leaf = "telemetry" if record.kind == "window" else "report"
        return Send(topics.uplink(self._device, leaf, self._prefix), encode_msgpack(envelope))
