"""The loop between the broker and the database, in one thread: take, commit, answer, notify."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Sequence

import msgspec
from prometheus_client import Counter
from sqlmodel import col, select

from cloud_hub.broker import open_link
from cloud_hub.broker.choose import Open
from cloud_hub.context import Hub
from cloud_hub.ingest.commands import mark_sent, waiting
from cloud_hub.ingest.ingestor import Ingestor, Message
from cloud_hub.services import Service
from cloud_hub.store.tables import ChannelRow, Device, OutboxCommand
from fleet.protocol import topics
from fleet.protocol.messages import Notify

log = logging.getLogger(__name__)
GATHER_S = 0.1  # how long a first message waits for company: one commit and one receipt for all
BATCH = 500
QUEUE = 20_000  # messages; beyond that the oldest protection holds: devices send again what has no receipt
CHECK_S = 1.0  # between two looks at the broker's health and at revoked devices
SWEEP_S = 10.0
# In no registry of its own: `routes.monitoring.install` adds it to the application's.
MESSAGES = Counter("edgeloop_hub_messages_total", "Messages taken from devices", ["kind"], registry=None)


class Ingest:
    """Connects to the broker and runs until it is cancelled."""

    name = "ingest"

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._inbox: queue.Queue[Message] = queue.Queue(QUEUE)
        self._stop = threading.Event()

    async def run(self) -> None:
        """Until cancelled; a failure closes the connection and raises, and the supervisor starts anew."""
        self._stop.clear()
        try:
            await asyncio.to_thread(self._work)
        finally:
            self._stop.set()

    def arrived(self, topic: str, payload: bytes) -> None:
        """Called by the broker's thread; a full inbox drops, since nothing is lost without a receipt."""
        try:
            self._inbox.put_nowait(Message(topic, payload))
        except queue.Full:
            MESSAGES.labels("dropped").inc()

    def _work(self) -> None:
        ingestor, checked, swept = Ingestor(self._hub), 0.0, 0.0
        with open_link(self._hub, self.arrived) as link:
            while not self._stop.is_set():
                batch = self._gather()
                if batch:
                    for topic, payload in ingestor.take(batch):
                        link.publish(topic, payload)
                    _count(ingestor)
                if time.monotonic() - checked > CHECK_S:
                    link.check()
                    checked = time.monotonic()
                self._send_commands(link)
                self._notify(link)
                if time.monotonic() - swept > SWEEP_S:
                    self._sweep()
                    swept = time.monotonic()

    def _gather(self) -> Sequence[Message]:
        """The next batch; empty when nothing came within a moment."""
        try:
            batch = [self._inbox.get(timeout=GATHER_S)]
        except queue.Empty:
            return ()
        until = time.monotonic() + GATHER_S
        while len(batch) < BATCH and (left := until - time.monotonic()) > 0:
            try:
                batch.append(self._inbox.get(timeout=left))
            except queue.Empty:
                break
        return batch

    def _send_commands(self, link: Open) -> None:
        for command, topic, payload in waiting(self._hub) if self._pending() else ():
            link.publish(topic, payload)
            with self._hub.session() as session:
                mark_sent(session, command, self._hub.clock())

    def _pending(self) -> bool:
        alive = select(OutboxCommand.id).where(
            col(OutboxCommand.sent_at).is_(None), OutboxCommand.expires_at > self._hub.clock()
        )
        with self._hub.reading() as session:
            return session.exec(alive).first() is not None

    def _notify(self, link: Open) -> None:
        """Tell devices of every channel version that was not announced yet."""
        with self._hub.reading() as session:
            rows = session.exec(select(ChannelRow).where(ChannelRow.version > ChannelRow.notified_version)).all()
        for row in rows:
            notice = Notify(channel=row.name, version=row.version, spread_s=row.spread_s)
            link.publish(topics.notify(row.name, self._hub.config.broker.prefix), msgspec.json.encode(notice))
            with self._hub.session() as session:
                current = session.get(ChannelRow, row.name)
                if current is not None and current.notified_version < row.version:
                    current.notified_version = row.version
                    session.add(current)

    def _sweep(self) -> None:
        """Devices that were silent for too long are offline, whatever their last word was."""
        limit = self._hub.clock() - self._hub.config.offline_after_s
        silent = select(Device).where(col(Device.online).is_(True), col(Device.last_seen_at) < limit)
        with self._hub.reading() as session:
            if session.exec(silent).first() is None:
                return
        with self._hub.session() as session:
            for device in session.exec(silent):
                device.online = False
                session.add(device)


def _count(ingestor: Ingestor) -> None:
    for kind, number in ingestor.counts.items():
        MESSAGES.labels(kind).inc(number)
    ingestor.counts.clear()


def services(hub: Hub) -> list[Service]:
    """The services of this package."""
    return [Ingest(hub)]
