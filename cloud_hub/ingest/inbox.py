"""Keeps messages that the hub has not taken yet: of each device as many as its allowance, taken in turn.

Devices share one queue and one database, so one that sends without end must not delay the others. Each has an
allowance of messages and bytes per second (token buckets: Turner, "New directions in communications", IEEE
Communications 24, 1986); what is above it waits here, and what no longer fits is dropped, as a broker may drop it:
nothing is lost without a receipt. An agent never has more than `gobackn.WINDOW` (20) records in flight, so a device
whose messages are dropped here does not keep to the rules, and is named. One that comes back after weeks with a full
spool is only slowed. A record that is sent again while it waits here already is left out: a hub that is late answers it
once, and what its devices repeat meanwhile takes no place from what is new.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Mapping
from typing import NamedTuple

PER_S, BURST = 100.0, 400.0  # messages of one device
BYTES_PER_S, BYTES_BURST = 512 << 10, 4 << 20  # of one device
SHARE = 100  # messages of one device that wait
SHARE_BYTES = 2 << 20
MOST, MOST_BYTES = 20_000, 128 << 20  # of all devices together, but for one message of each
REMEMBERED = 20_000  # devices whose allowance is kept; those not heard longest have a full one again


NOTHING: Mapping[str, str] = {}


class Message(NamedTuple):
    """A message that arrived; `carried` are the headers of the trace it belongs to, empty without one."""

    topic: str
    payload: bytes
    carried: Mapping[str, str] = NOTHING


class _Allowance:
    """Two token buckets: a message may go while both hold something, and may overdraw the bytes once."""

    __slots__ = ("at", "bytes", "messages")

    def __init__(self, now: float) -> None:
        self.at, self.messages, self.bytes = now, BURST, float(BYTES_BURST)

    def spend(self, size: int, now: float) -> bool:
        passed = max(now - self.at, 0.0)
        self.at = now
        self.messages = min(self.messages + passed * PER_S, BURST)
        self.bytes = min(self.bytes + passed * BYTES_PER_S, float(BYTES_BURST))
        if self.messages < 1.0 or self.bytes <= 0.0:
            return False
        self.messages -= 1.0
        self.bytes -= size
        return True


class Inbox:
    """Filled by the broker's thread and emptied by the ingest's; `now` is monotonic, in seconds."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: dict[str, deque[Message]] = {}
        self._sizes: Counter[str] = Counter()
        self._turn: OrderedDict[str, None] = OrderedDict()  # devices with something waiting, whose turn is next first
        self._allowances: OrderedDict[str, _Allowance] = OrderedDict()
        self._count = self._bytes = 0
        self._fresh = False
        self._dropped: Counter[str] = Counter()
        self._repeated: Counter[str] = Counter()  # what waited already, since the last call of `named`

    def __len__(self) -> int:
        return self._count

    def put(self, topic: str, payload: bytes, carried: Mapping[str, str] = NOTHING) -> bool:
        """Keep a message for its turn; false when it was dropped.

        Args:
            topic: of a device's uplink.
            payload: an envelope or a status.
            carried: names the trace that it belongs to; empty without one.
        """
        device, _, leaf = topic.rpartition("/")
        message = Message(topic, payload, carried)
        with self._changed:
            waiting = self._waiting.get(device) or deque()
            if leaf != "status" and message in waiting:  # each status counts: two of one kind may be two machines'
                self._repeated[device] += 1
                return self._repeated[device] < SHARE
            if len(waiting) >= SHARE or self._sizes.get(device, 0) + len(payload) > SHARE_BYTES:
                self._dropped[device] += 1
                return False
            if self._full(len(payload), alone=not waiting):
                return False
            waiting.append(message)
            self._waiting[device] = waiting
            self._turn.setdefault(device)
            self._add(device, 1, len(payload))
            self._fresh = True
            self._changed.notify()
        return True

    def _full(self, size: int, *, alone: bool) -> bool:
        """Beyond the bound of all a device may still have one message, or floods together would shut out the others."""
        total = self._bytes + size
        return total > 2 * MOST_BYTES or (not alone and (self._count >= MOST or total > MOST_BYTES))

    def wait(self, timeout_s: float) -> None:
        """Until something has arrived since the last `take`, or the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._fresh, timeout_s)

    def take(self, most: int, now: float) -> list[Message]:
        """At most `most` messages, one of each device in turn, in the order in which a device sent them."""
        found: list[Message] = []
        with self._changed:
            self._fresh, passed = False, 0  # passed: devices in a row whose allowance is spent
            while len(found) < most and passed < len(self._turn):
                device = next(iter(self._turn))
                self._turn.move_to_end(device)
                if self._may(device, now):
                    found.append(self._next(device))
                    passed = 0
                else:
                    passed += 1
        return found

    def named(self) -> dict[str, int]:
        """Count the messages dropped since the last call, by device (a topic's begin)."""
        with self._changed:
            dropped, self._dropped = self._dropped, Counter()
            repeated, self._repeated = self._repeated, Counter()
        dropped.update({device: count + 1 - SHARE for device, count in repeated.items() if count >= SHARE})
        return dict(dropped)

    def _may(self, device: str, now: float) -> bool:
        allowance = self._allowances.get(device)
        if allowance is None:
            allowance = self._allowances[device] = _Allowance(now)
            while len(self._allowances) > REMEMBERED:
                self._allowances.popitem(last=False)
        self._allowances.move_to_end(device)
        return allowance.spend(len(self._waiting[device][0].payload), now)

    def _next(self, device: str) -> Message:
        waiting = self._waiting[device]
        message = waiting.popleft()
        self._add(device, -1, -len(message.payload))
        if not waiting:
            del self._turn[device], self._waiting[device], self._sizes[device]
        return message

    def _add(self, device: str, messages: int, size: int) -> None:
        self._sizes[device] += size
        self._count += messages
        self._bytes += size
