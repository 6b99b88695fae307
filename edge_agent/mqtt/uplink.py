"""The MQTT connection: spooled records up until the hub's receipts, notifications and commands down.

paho keeps its queue in memory, so it is given at most `gobackn.WINDOW` records. All of this runs on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping

from edge_agent.errors import AgentError, DeniedError
from edge_agent.mqtt.broker_client import BrokerClient
from edge_agent.mqtt.command_receiver import CommandReceiver
from edge_agent.mqtt.connection import Connection
from edge_agent.mqtt.link import Link
from edge_agent.mqtt.spool_sender import SpoolSender
from edge_agent.mqtt.status_messages import StatusMessages
from edge_agent.mqtt.trails import NOTHING
from edge_agent.telemetry.budget import Budget
from fleet.protocol import topics
from fleet.protocol.errors import ProtocolError
from fleet.protocol.messages import Notify, decode_control
from fleet.protocol.resolve import spread_delay

log = logging.getLogger(__name__)

WAITING = 1000  # messages that have arrived and are not read yet; the oldest give way


class Uplink:
    """Keeps one connection to the broker of its link, and sends and receives on it. Run `run` as a task."""

    def __init__(
        self,
        link: Link,
        sender: SpoolSender,
        commands: CommandReceiver,
        *,
        budget: Budget,
        statuses: StatusMessages,
        notified: Callable[[str], None],
        twice: Callable[[], bool] = lambda: False,
    ) -> None:
        """Connect by `link` as soon as it runs.

        Args:
            link: where, and as whom; `follow` names another one.
            sender: says which records go out.
            commands: takes what the hub tells this device alone.
            budget: counts the bytes of messages, both ways.
            statuses: writes the messages that say whether the device is there.
            notified: hears why the channel may have changed: a notification, or a new connection.
            twice: whether the hub sees this identity in use twice.
        """
        self._link, self._sender, self._commands = link, sender, commands
        self._budget, self._statuses, self._notified = budget, statuses, notified
        self._broker = BrokerClient(self, Connection(statuses.clock), twice)
        self._inbox: deque[tuple[str, bytes, Mapping[str, str]]] = deque(maxlen=WAITING)
        self._wake = asyncio.Event()
        self._next: Link | None = None
        self._session = ""
        self._beat = 0.0
        self.rebuilt = 0

    @property
    def online(self) -> bool:
        """True once the broker has accepted the connection and the subscription."""
        return self._broker.online

    @property
    def connection(self) -> Connection:
        """The state of the connection, for people."""
        return self._broker.connection

    def wake(self) -> None:
        """Look for new records at once; callable from the event loop."""
        self._wake.set()

    def follow(self, link: Link) -> None:
        """Connect anew: another broker, channel or certificate. What was not receipted is sent again there."""
        self._next = link
        self._wake.set()

    async def run(self) -> None:
        """Stay connected and send until cancelled; then say goodbye."""
        self._open()
        try:
            while True:
                await self._pause()
                now = time.monotonic()
                if self._next is not None:
                    await self._close(polite=False)
                    self._link, self._next = self._next, None
                    self._open()
                while self._inbox:
                    await self._receive(*self._inbox.popleft())
                self._sender.tick(now)
                if self._broker.watch(now):
                    self.rebuilt += 1
                    await self._close(polite=False)
                    self._open()
                await self._sender.part()
                self._send(now)
        finally:
            await self._close(polite=True)

    async def _pause(self) -> None:
        timeout_s = self._sender.timeout_s
        patience = min(timeout_s / 4, 1.0) if timeout_s is not None else self._link.heartbeat_s / 4
        # Not wait_for: on Python 3.11 that swallows a cancellation which meets a set event.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._wake.wait()
        self._wake.clear()

    def _open(self) -> None:
        # One session id per client, in the will too: the hub drops a `lost` of an older session.
        self._session, self._beat = secrets.token_hex(8), time.monotonic()
        will = self._statuses.lost(self._link, self._session)
        self._broker.open(self._link, will)

    async def _close(self, *, polite: bool) -> None:
        goodbye = self._statuses.lost(self._link, self._session) if polite else None
        await self._broker.close(goodbye)

    # ---- what the broker's client hears -------------------------------------------------------

    def connected(self) -> None:
        """See `broker_client.Listener`."""
        self._sender.connect(time.monotonic())
        self._say_online()
        self._notified("connected")
        self._wake.set()

    def disconnected(self) -> None:
        """See `broker_client.Listener`."""
        self._sender.disconnect()
        self._wake.set()

    def arrived(self, topic: str, payload: bytes, carried: Mapping[str, str]) -> None:
        """See `broker_client.Listener`."""
        self._budget.count(down=len(payload))
        self._inbox.append((topic, payload, carried))
        self._wake.set()

    # ---- up and down --------------------------------------------------------------------------

    def _send(self, now: float) -> None:
        if not self._sender.connected:
            return
        if now - self._beat >= self._link.heartbeat_s:
            self._say_online()
        for leaf, payload, carried in self._sender.flight(self._link.device_id, now):
            self._publish(leaf, payload, carried)

    def _say_online(self) -> None:
        self._beat = time.monotonic()
        self._publish("status", self._statuses.online(self._link, self._session))

    def _publish(self, leaf: topics.Leaf, payload: bytes, carried: Mapping[str, str] = NOTHING) -> None:
        if self._broker.publish(self._link.topic(leaf), payload, carried):
            self._budget.count(up=len(payload))

    async def _receive(self, topic: str, payload: bytes, carried: Mapping[str, str]) -> None:
        try:
            command, notify = self._link.subscriptions
            if topic == notify:
                self._notify(decode_control(payload, Notify))
            elif topic == command:
                await self._commands.take(payload, self._link.device_id, carried)
        except (DeniedError, ProtocolError) as error:
            log.warning("a message on %s is refused: %s", topic, error)
        except AgentError as error:
            log.error("a message on %s could not be carried out: %s", topic, error)

    def _notify(self, notify: Notify) -> None:
        delay = spread_delay(notify.version, self._link.device_id, notify.spread_s)
        asyncio.get_running_loop().call_later(delay, self._notified, f"channel version {notify.version}")
