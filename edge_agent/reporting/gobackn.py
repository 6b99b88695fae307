"""Which spooled records to send next: go-back-N over receipts, as a value without I/O.

The hub takes records strictly in order and drops what comes too early, so after a reconnect or a
silence the device goes back to the first record without a receipt. Source: go-back-N ARQ
(RFC 3366, section 1.4); the doubling pause is RFC 6298's backoff.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

WINDOW = 20  # records in flight
FIRST_TIMEOUT_S = 10.0
MAX_TIMEOUT_S = 300.0


class Sender(Struct, frozen=True, kw_only=True):
    """`sent` is the highest number handed to the broker on this connection; `since` the monotonic
    time of the last progress (first send of a flight, or a receipt)."""

    committed: int = 0
    sent: int = 0
    since: float = 0.0
    timeout_s: float = FIRST_TIMEOUT_S
    first_timeout_s: float = FIRST_TIMEOUT_S
    connected: bool = False


def connected(sender: Sender, now: float) -> Sender:
    """A new connection: whatever was in flight is sent again."""
    return msgspec.structs.replace(sender, connected=True, sent=sender.committed, since=now)


def disconnected(sender: Sender) -> Sender:
    """The connection is gone."""
    return msgspec.structs.replace(sender, connected=False)


def room(sender: Sender) -> int:
    """How many more records may be in flight now."""
    return max(0, WINDOW - (sender.sent - sender.committed)) if sender.connected else 0


def sending(sender: Sender, upto: int, now: float) -> Sender:
    """Records up to `upto` were handed over."""
    first = sender.sent <= sender.committed
    return msgspec.structs.replace(sender, sent=max(sender.sent, upto), since=now if first else sender.since)


def receipt(sender: Sender, committed: int, now: float) -> Sender:
    """A receipt: progress resets the patience; an old one changes nothing."""
    if committed <= sender.committed:
        return sender
    return msgspec.structs.replace(
        sender,
        committed=committed,
        sent=max(sender.sent, committed),
        since=now,
        timeout_s=sender.first_timeout_s,
    )


def lost(sender: Sender, upto: int) -> Sender:
    """The spool gave up everything up to `upto`: do not wait for receipts of it."""
    if upto <= sender.committed:
        return sender
    return msgspec.structs.replace(sender, committed=upto, sent=max(sender.sent, upto))


def tick(sender: Sender, now: float) -> Sender:
    """Go back when records are in flight and no receipt came for `timeout_s`."""
    if not sender.connected or sender.sent <= sender.committed or now - sender.since < sender.timeout_s:
        return sender
    return msgspec.structs.replace(
        sender, sent=sender.committed, since=now, timeout_s=min(sender.timeout_s * 2, MAX_TIMEOUT_S)
    )
