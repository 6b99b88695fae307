"""The loop between the broker and the database, in one thread: take, commit, answer, notify.

Each step fails by itself and is tried again after a pause of its own. The broker goes on meanwhile, and devices
stay connected: only its own end closes the link, and starts both anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec
from prometheus_client import Counter
from sqlalchemy import update
from sqlmodel import col, select

from cloud_hub.broker import open_link
from cloud_hub.broker.choose import Open
from cloud_hub.clock import SLACK_S
from cloud_hub.context import Hub
from cloud_hub.errors import HubError
from cloud_hub.ingest.commands import mark_sent, waiting
from cloud_hub.ingest.compacting import Compaction
from cloud_hub.ingest.inbox import NOTHING, Inbox, Message
from cloud_hub.ingest.ingestor import Ingestor, Interrupted, Outgoing
from cloud_hub.ingest.shards import LOOK_S, Shards
from cloud_hub.ingest.slowing import note
from cloud_hub.ingest.tracing import span_of_sending, spans_of_taking
from cloud_hub.services.supervisor import Backoff, Service
from cloud_hub.store import hearing
from cloud_hub.store.tables import ChannelRow, Device, OutboxCommand
from fleet.protocol import topics
from fleet.protocol.messages import Notify
from fleet.tracing import OFF, Tracer

log = logging.getLogger(__name__)
GATHER_S = 0.1  # how long messages gather: one commit and one receipt for all of a spool
BATCH = 500
PATIENCE = 3  # failures of a batch before its messages are tried one by one
REVOKE_S = 1.0  # between two looks for revoked devices
SWEEP_S = 10.0
NAME_S = 10.0  # between two looks for devices that send more than is taken
NAMED = 100  # of them at a time
# In no registry of its own: `routes.monitoring.install` adds it to the application's.
MESSAGES = Counter("edgeloop_hub_messages_total", "Messages taken from devices", ["kind"], registry=None)


class LoopStep:
    """A piece of the loop: one that fails is logged, and comes again after a pause that grows until it works."""

    def __init__(self, name: str, work: Callable[[], None], every_s: float = 0.0) -> None:
        self._name, self._work, self._every_s = name, work, every_s
        self._due = 0.0
        self._backoff = Backoff()
        self.problem = ""  # why it failed last, until it works again

    @property
    def failures(self) -> int:
        """The number of failures since it last worked."""
        return self._backoff.failures

    def run(self, now: float) -> None:
        """Do the work if it is time; `now` is monotonic, in seconds."""
        if now < self._due:
            return
        try:
            self._work()
        except Exception as error:  # the boundary of a named piece of work: logged, then done again
            self.problem = f"{self._name} fails: {type(error).__name__}"
            pause = self._backoff.failed()
            self._due = now + pause
            log.exception("ingest: %s failed; again in %.1f s", self._name, pause)
        else:
            self.problem = ""
            self._backoff.worked()
            self._due = now + self._every_s


class Ingest:
    """Connects to the broker and runs until it is cancelled."""

    name = "ingest"

    def __init__(self, hub: Hub, now: Callable[[], float] = time.monotonic, tracer: Tracer = OFF) -> None:
        self._hub, self._now, self._tracer = hub, now, tracer
        self._inbox = Inbox()
        self._batch: Sequence[Message] = ()
        self._shards = Shards(hub)
        self._ingestor = Ingestor(hub, self._shards.fence)
        self._stop = threading.Event()

    async def run(self) -> None:
        """Until cancelled; the end of the broker raises, and the supervisor starts anew."""
        self._stop.clear()
        try:
            await asyncio.to_thread(self._work)
        except (HubError, OSError) as error:
            self._hub.board.say("broker", str(error))
            raise
        finally:
            self._hub.board.say("ingest", "it does not run")
            self._stop.set()

    def arrived(self, topic: str, payload: bytes, carried: Mapping[str, str] = NOTHING) -> None:
        """Called by the broker's thread; what is too much is dropped, since nothing is lost without a receipt.

        Args:
            topic: of a device's uplink.
            payload: an envelope or a status.
            carried: names the trace that it belongs to; empty without one.
        """
        if not self._inbox.put(topic, payload, carried):
            MESSAGES.labels("dropped").inc()

    def _work(self) -> None:
        opened = open_link(self._hub, self.arrived, self._shards.digits, traced=self._tracer.on)
        with self._leaving(), opened as link:
            taking = LoopStep("writing what devices sent", lambda: self._take(link, taking.failures >= PATIENCE))
            steps = (
                LoopStep("sharing the ingest", lambda: self._share(link), LOOK_S),
                LoopStep("noting that devices are heard", lambda: self._note(link), hearing.NOTE_S),
                taking,
                LoopStep("carrying revocations to the broker", link.revoke, REVOKE_S),
                LoopStep("sending commands", lambda: self._send_commands(link)),
                LoopStep("announcing channels", lambda: self._notify(link)),
                LoopStep("looking for silent devices", self._sweep, SWEEP_S),
                LoopStep("naming devices that send too much", self._name_floods, NAME_S),
            )
            while not self._stop.is_set():
                self._gather()
                for step in steps:
                    step.run(self._now())
                self._hub.board.say("ingest", next(filter(None, (step.problem for step in steps)), ""))
                link.check()
                self._shards.check()

    @contextlib.contextmanager
    def _leaving(self) -> Iterator[None]:
        """Give every shard back at the end; none is taken before the broker is there."""
        try:
            yield
        finally:
            self._shards.leave()

    def _share(self, link: Open) -> None:
        """Take this hub's part; without its broker the lease runs out, and others take what this hub cannot hear."""
        if link.hears:
            link.follow(self._shards.look())

    def _note(self, link: Open) -> None:
        """Note that devices are heard, before what they sent is written: it ends an outage."""
        if link.hears:
            with self._hub.session() as session:
                hearing.note(session, self._hub.clock(), self._shards.digits)

    def _take(self, link: Open, apart: bool) -> None:
        """Write the batch and answer it; what could not be written of it stays."""
        if not self._batch:
            return
        take = self._ingestor.take_apart if apart else self._ingestor.take
        stopped: Interrupted | None = None
        receipts: Sequence[Outgoing]
        rest: Sequence[Message]
        try:
            with spans_of_taking(self._tracer, self._batch):
                receipts, rest = take(self._batch), ()
        except Interrupted as error:
            receipts, rest, stopped = error.receipts, error.rest, error
        finally:
            _count(self._ingestor)
        self._batch = rest
        for topic, payload in receipts:
            link.publish(topic, payload)
        if stopped is not None:
            raise stopped.__cause__ or stopped

    def _gather(self) -> None:
        """Fill the batch, unless one waits that could not be written; at least a moment passes."""
        if self._batch:
            self._stop.wait(GATHER_S)
            return
        batch: list[Message] = []
        until = self._now() + GATHER_S
        while len(batch) < BATCH and (left := until - self._now()) > 0:
            batch += self._inbox.take(BATCH - len(batch), self._now())
            self._inbox.wait(left)
        self._batch = batch

    def _send_commands(self, link: Open) -> None:
        for command, topic, payload in waiting(self._hub, self._shards) if self._pending() else ():
            with span_of_sending(self._tracer, command) as carried:
                link.publish(topic, payload, carried)
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
            older = (col(ChannelRow.name) == row.name, col(ChannelRow.notified_version) < row.version)
            with self._hub.session() as session:  # another replica may have announced a later one
                session.connection().execute(update(ChannelRow).where(*older).values(notified_version=row.version))

    def _name_floods(self) -> None:
        """Say which devices send more than is taken of them."""
        dropped = Tally(self._inbox.named()).most_common(NAMED)
        if dropped:
            note(self._hub, dropped)

    def _sweep(self) -> None:
        """Devices that were silent for too long are offline, whatever their last word was.

        One that was heard in the future, by a clock that ran ahead, was heard now at the latest.
        """
        now = self._hub.clock()
        silent = col(Device.online).is_(True) & (col(Device.last_seen_at) < now - self._hub.config.offline_after_s)
        ahead = col(Device.last_seen_at) > now + SLACK_S
        with self._hub.reading() as session:
            if session.exec(select(Device.id).where(silent | ahead)).first() is None:
                return
        with self._hub.session() as session:  # one statement each: a device that is heard in this moment stays online
            session.connection().execute(update(Device).where(ahead).values(last_seen_at=now))
            session.connection().execute(update(Device).where(silent).values(online=False))


def _count(ingestor: Ingestor) -> None:
    for kind, number in ingestor.counts.items():
        MESSAGES.labels(kind).inc(number)
    ingestor.counts.clear()


def services(hub: Hub, tracer: Tracer = OFF) -> list[Service]:
    """The services of this package."""
    return [Ingest(hub, tracer=tracer), Compaction(hub)]
