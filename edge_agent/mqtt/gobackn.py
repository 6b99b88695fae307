"""Decides which spooled records to send next: go-back-N over receipts, as a value without I/O.

The hub takes records strictly in order and drops what comes too early, so after a reconnect or a
silence the device goes back to the first record without a receipt. Source: go-back-N ARQ
(RFC 3366, section 1.4).

A hub that is late is not helped by hearing everything twice: ten thousand devices that send again what waits there
already would keep it late for ever. So a device learns how long receipts take and waits for as long (RFC 6298; of
records that were sent again nothing is learnt, by Karn's rule), and after a silence it sends one record alone, until a
receipt shows that the hub is there; then twice as many with each receipt (slow start, RFC 5681, section 3.1).
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

WINDOW = 20  # records in flight
FIRST_TIMEOUT_S = 10.0
MAX_TIMEOUT_S = 300.0


class Sender(Struct, frozen=True, kw_only=True):
    """`sent` is the highest number handed to the broker on this connection, `top` on any; `since` the monotonic
    time of the last progress (first send of a flight, or a receipt).

    `window` records may be in flight. `timed` is the number whose receipt is waited for to learn how long that takes,
    handed over at `timed_at`; 0: none. `delay_s` and `varies_s` are what was learnt: the mean and its deviation.
    """

    committed: int = 0
    sent: int = 0
    top: int = 0
    since: float = 0.0
    timeout_s: float = FIRST_TIMEOUT_S
    first_timeout_s: float = FIRST_TIMEOUT_S
    connected: bool = False
    window: int = WINDOW
    timed: int = 0
    timed_at: float = 0.0
    delay_s: float | None = None
    varies_s: float = 0.0


def connected(sender: Sender, now: float) -> Sender:
    """A new connection: whatever was in flight is sent again."""
    return msgspec.structs.replace(sender, connected=True, sent=sender.committed, since=now, timed=0)


def disconnected(sender: Sender) -> Sender:
    """The connection is gone."""
    return msgspec.structs.replace(sender, connected=False)


def room(sender: Sender) -> int:
    """Return the number of further records that may be in flight now."""
    return max(0, sender.window - (sender.sent - sender.committed)) if sender.connected else 0


def sending(sender: Sender, upto: int, now: float) -> Sender:
    """Mark records as handed over.

    Args:
        sender: the state before.
        upto: the last record's number.
        now: monotonic, seconds.
    """
    first, fresh = sender.sent <= sender.committed, upto > sender.top
    timed, timed_at = sender.timed, sender.timed_at
    if fresh and not timed:
        timed, timed_at = max(sender.top, sender.committed) + 1, now
    return msgspec.structs.replace(
        sender,
        sent=max(sender.sent, upto),
        top=max(sender.top, upto),
        since=now if first else sender.since,
        timed=timed,
        timed_at=timed_at,
    )


def receipt(sender: Sender, committed: int, now: float) -> Sender:
    """Take a receipt, which is progress; an old one changes nothing. The patience stays until one tells a round trip.

    Args:
        sender: the state before.
        committed: the last number that the hub has.
        now: monotonic, seconds.
    """
    if committed <= sender.committed:
        return sender
    if sender.timed and committed >= sender.timed:
        sender = _learnt(sender, max(0.0, now - sender.timed_at))
    return msgspec.structs.replace(
        sender,
        committed=committed,
        sent=max(sender.sent, committed),
        top=max(sender.top, committed),
        since=now,
        window=min(2 * sender.window, WINDOW),
    )


def lost(sender: Sender, upto: int) -> Sender:
    """The spool gave up everything up to `upto`: do not wait for receipts of it."""
    if upto <= sender.committed:
        return sender
    return msgspec.structs.replace(
        sender, committed=upto, sent=max(sender.sent, upto), top=max(sender.top, upto), timed=0
    )


def tick(sender: Sender, now: float) -> Sender:
    """Go back when records are in flight and no receipt came for `timeout_s`."""
    if not sender.connected or sender.sent <= sender.committed or now - sender.since < sender.timeout_s:
        return sender
    return msgspec.structs.replace(
        sender,
        sent=sender.committed,
        since=now,
        timeout_s=min(sender.timeout_s * 2, MAX_TIMEOUT_S),
        window=1,
        timed=0,
    )


def _learnt(sender: Sender, took_s: float) -> Sender:
    """Learn from a record's receipt how long one takes (RFC 6298, section 2)."""
    if sender.delay_s is None:
        delay_s, varies_s = took_s, took_s / 2
    else:
        varies_s = 0.75 * sender.varies_s + 0.25 * abs(sender.delay_s - took_s)
        delay_s = 0.875 * sender.delay_s + 0.125 * took_s
    timeout_s = min(max(sender.first_timeout_s, delay_s + 4 * varies_s), MAX_TIMEOUT_S)
    return msgspec.structs.replace(sender, delay_s=delay_s, varies_s=varies_s, timeout_s=timeout_s, timed=0)
