"""Sends the spool's records until the hub's receipts, by the rules of `gobackn`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from edge_agent.errors import SpoolError
from edge_agent.mqtt import gobackn
from edge_agent.mqtt.trails import Trails
from edge_agent.telemetry.spool import Spool, SpoolRecord, SpoolSeries
from fleet.protocol import topics
from fleet.protocol.codec import encode_msgpack
from fleet.protocol.messages import Envelope, Receipt

log = logging.getLogger(__name__)


class RecordMessage(NamedTuple):
    """A record as a message: the last part of its topic, its payload, and the headers of the trace it belongs to."""

    leaf: topics.Leaf
    payload: bytes
    carried: Mapping[str, str]


class SpoolSender:
    """Decides which records go out next, and which ones a receipt covers. It sends nothing itself."""

    def __init__(
        self, spool: Spool, trails: Trails | None = None, *, first_timeout_s: float = gobackn.FIRST_TIMEOUT_S
    ) -> None:
        """Begin with the oldest record.

        Args:
            spool: holds the records.
            trails: knows the traces that records belong to; None where nobody wants traces.
            first_timeout_s: the wait for a receipt before any has told how long one takes.
        """
        self._spool, self._trails = spool, trails or Trails()
        self._sender = gobackn.Sender(
            committed=spool.base - 1, sent=spool.base - 1, timeout_s=first_timeout_s, first_timeout_s=first_timeout_s
        )
        self._most_sent = 0  # the highest number that this process has handed over
        self._parted = False  # whether what is sent anew on this connection has a series of its own

    @property
    def connected(self) -> bool:
        """True while there is a connection to send on."""
        return self._sender.connected

    @property
    def timeout_s(self) -> float | None:
        """The seconds that a receipt may take before its records are sent again; None when nothing is in flight."""
        return self._sender.timeout_s if self._sender.sent > self._sender.committed else None

    def connect(self, now: float) -> None:
        """Begin a connection at `now` (monotonic): whatever was in flight is sent again."""
        self._sender = gobackn.connected(self._sender, now)
        self._parted = False

    def disconnect(self) -> None:
        """End the connection."""
        self._sender = gobackn.disconnected(self._sender)

    def tick(self, now: float) -> None:
        """Go back to the first record without a receipt when it is overdue at `now` (monotonic)."""
        self._sender = gobackn.tick(self._sender, now)

    async def part(self) -> None:
        """Number anew on each connection what was not sent before: a machine that was set back has to connect anew."""
        if self._parted or not self._sender.connected or self._spool.top <= self._most_sent:
            return
        self._parted = True
        try:
            await asyncio.to_thread(self._spool.part, self._most_sent)
        except SpoolError as error:  # a full disk: the numbers are good unless this machine was set back
            log.warning("the records go on with the numbers of the last connection: %s", error)

    def flight(self, device_id: str, now: float) -> list[RecordMessage]:
        """Take the records that may be sent now, as messages in their order; they count as sent.

        Args:
            device_id: the device that the messages come from.
            now: the monotonic time.

        """
        self._sender = gobackn.lost(self._sender, self._spool.base - 1)
        room = gobackn.room(self._sender)
        if not room or self._sender.sent >= self._spool.top:
            return []
        series = self._spool.oldest  # the next one's turn comes when it has its receipts
        records = [one for one in self._spool.after(self._sender.sent, room) if one.seq <= series.last]
        if records:
            self._sender = gobackn.sending(self._sender, records[-1].seq, now)
            self._most_sent = max(self._most_sent, records[-1].seq)
        return [
            RecordMessage(
                "telemetry" if one.kind == "window" else "report",
                self._envelope(device_id, one, series),
                self._trails.of(one.seq),
            )
            for one in records
        ]

    async def covered(self, receipt: Receipt) -> int:
        """The spool's number up to which a receipt covers what is held; 0 for one of another series."""
        series = self._spool.oldest
        if receipt.spool != series.id:
            return 0
        upto = series.upto(receipt.committed)
        if not self._spool.is_own(series):
            return min(upto, series.last)  # what a copy of this file holds of it is the same
        if upto <= min(self._most_sent, series.last):
            return upto
        log.error(
            "the hub has records under numbers that this process has not used: was it set back while it ran, or is it"
            " running twice? What is held is sent again under other numbers"
        )
        await asyncio.to_thread(self._spool.rename)
        self._sender = gobackn.connected(self._sender, time.monotonic())
        return 0

    def receipted(self, upto: int, now: float) -> None:
        """Go on after the records up to `upto`, which the hub has and the spool has let go."""
        self._sender = gobackn.receipt(self._sender, min(upto, self._spool.top), now)

    def _envelope(self, device_id: str, record: SpoolRecord, series: SpoolSeries) -> bytes:
        return encode_msgpack(
            Envelope(
                device=device_id,
                spool=series.id,
                seq=series.number(record.seq),
                base=series.number(max(series.first, min(self._spool.base, record.seq))),
                at=record.at,
                kind=record.kind,
                body=msgspec.Raw(record.body),
            )
        )
