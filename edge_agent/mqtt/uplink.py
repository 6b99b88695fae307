"""The MQTT connection: spooled records up until the hub's receipts, notifications and commands down.

paho's network thread sleeps in `select` and only hands over what arrived; everything else happens
on the event loop. paho keeps its queue in memory and can lose its thread to a TLS error, so it is
given at most `gobackn.WINDOW` records, and a watchdog builds a new client after a silence.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Literal

import msgspec
import paho.mqtt.client as mqtt

from edge_agent.errors import AgentError, DeniedError, SpoolError
from edge_agent.mqtt import gobackn, troubles
from edge_agent.mqtt.command_verification import COUNTER, accept, counter_of
from edge_agent.mqtt.connection import Client, Connection
from edge_agent.mqtt.link import Link, end_client, make_client
from edge_agent.mqtt.reconnecting import Reconnecting
from edge_agent.mqtt.troubles import Trouble
from edge_agent.telemetry.budget import Budget
from edge_agent.telemetry.database import Database
from edge_agent.telemetry.spool import Record, Series, Spool
from fleet.protocol import topics
from fleet.protocol.codec import encode_json, encode_msgpack
from fleet.protocol.errors import ProtocolError
from fleet.protocol.messages import Command, CommandKeys, Envelope, Notify, Receipt, Status, decode_control
from fleet.protocol.resolve import spread_delay

log = logging.getLogger(__name__)

ANSWER_S = 10.0  # for the broker to answer login and subscription, then what is wrong is said
SILENCE = 2.5  # heartbeats without a sign from the broker, then the client is rebuilt
LAST_COMMAND = "last-command"  # a fact: that command as it came, which proves its number to a restored hub
CALLBACKS = (
    "on_connect",
    "on_subscribe",
    "on_disconnect",
    "on_message",
    "on_publish",
    "on_failure",
    "on_socket_open",
)


class Uplink:
    """Runs on one event loop; callbacks from paho's thread are posted to it.

    `handle` executes a verified command that is not a receipt; `notified` hears that the channel
    may have changed (also on every connect); `twice` is whether the hub sees this identity in use twice, `vitals` gives
    `messages.Vitals` for a heartbeat.
    """

    def __init__(
        self,
        link: Link,
        database: Database,
        spool: Spool,
        budget: Budget,
        *,
        key: Callable[[], CommandKeys | None],
        verify: Callable[[bytes, bytes, bytes], bool],
        handle: Callable[[Command], None],
        notified: Callable[[str], None],
        clock: Callable[[], float] = time.time,
        clock_trusted: Callable[[], bool] = lambda: True,
        twice: Callable[[], bool] = lambda: False,
        vitals: Callable[[], Any] = lambda: None,
        first_timeout_s: float = gobackn.FIRST_TIMEOUT_S,
    ) -> None:
        self._link = link
        self._database = database
        self._spool = spool
        self._budget = budget
        self._key = key
        self._verify = verify
        self._handle = handle
        self._notified = notified
        self._clock = clock
        self._clock_trusted, self._vitals = clock_trusted, vitals
        self._counter = counter_of(link.device_id, database, spool)
        self._sender = gobackn.Sender(
            committed=spool.base - 1, sent=spool.base - 1, timeout_s=first_timeout_s, first_timeout_s=first_timeout_s
        )
        self._most_sent = 0  # the highest number that this process has handed over
        self._parted = False  # whether what is sent anew on this connection has a series of its own
        self._inbox: deque[tuple[str, bytes]] = deque(maxlen=1000)
        self._wake = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: Client | None = None
        self._next: Link | None = None
        self._session, self._instance = "", secrets.token_hex(8)
        self._reconnecting = Reconnecting(twice)
        self.connection = Connection(clock)
        self._opened = 0.0  # since when a connection stands that is not online; 0: none does
        self._heard = self._beat = 0.0
        self.rebuilt = 0

    @property
    def online(self) -> bool:
        """Whether the broker accepted the connection and the subscription."""
        return self._sender.connected

    def wake(self) -> None:
        """There are new records; callable from the event loop."""
        self._wake.set()

    def follow(self, link: Link) -> None:
        """Connect anew: another broker, channel or certificate. What was not receipted is sent again there."""
        self._next = link
        self._wake.set()

    async def run(self) -> None:
        """Stay connected and send until cancelled; then say goodbye."""
        self._loop = asyncio.get_running_loop()
        self._build()
        try:
            while True:
                await self._pause()
                now = time.monotonic()
                if self._next is not None:
                    await self._close(polite=False)
                    self._link, self._next = self._next, None
                    self._build()
                while self._inbox:
                    topic, payload = self._inbox.popleft()
                    await self._receive(topic, payload)
                self._sender = gobackn.tick(self._sender, now)
                await self._watch(now)
                await self._part()
                self._pump(now)
        finally:
            await self._close(polite=True)

    async def _pause(self) -> None:
        waiting = self._sender.sent > self._sender.committed
        patience = min(self._sender.timeout_s / 4, 1.0) if waiting else self._link.heartbeat_s / 4
        # Not wait_for: on Python 3.11 that swallows a cancellation which meets a set event.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._wake.wait()
        self._wake.clear()

    # ---- the client ---------------------------------------------------------------------------

    def _build(self) -> None:
        """A new client; none for a link that cannot be one's: the hub names the broker, and may soon name another."""
        self._heard = self._beat = time.monotonic()
        link = self._link
        self.connection.begin(link.endpoint)
        try:
            self._client = self._made(link)
        except (AgentError, ProtocolError, ValueError) as error:  # ValueError: paho's, of a host, port or topic
            self.connection.failed(troubles.of_error(error, link.endpoint))

    def _made(self, link: Link) -> Client:
        client = make_client(link)
        # One session id per client, in the will too: the hub drops a `lost` of an older session.
        self._session = secrets.token_hex(8)
        client.will_set(self._topic("status"), self._status("lost"), qos=1)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_failure = self._on_failure
        client.on_socket_open = self._on_open
        client.connect_async(link.endpoint.host, link.endpoint.port, keepalive=max(5, int(link.heartbeat_s)))
        client.loop_start()
        return client

    async def _close(self, *, polite: bool) -> None:
        """Give the client up. Its thread ends in a second or so, which the requests of applications do not wait for."""
        client, self._client = self._client, None
        if client is None:
            return
        self._sender = gobackn.disconnected(self._sender)
        for name in CALLBACKS:
            setattr(client, name, None)
        goodbye = self._status("lost") if polite else None
        await asyncio.to_thread(end_client, client, self._topic("status"), goodbye)

    async def _watch(self, now: float) -> None:
        if self._opened and now - self._opened > ANSWER_S:
            self._failed(troubles.silent(self._link.endpoint, ANSWER_S))
        quiet = now - max(self._heard, self._reconnecting.until)
        if quiet < SILENCE * self._link.heartbeat_s + 60.0 * (not self._sender.connected):
            return
        log.warning("nothing heard from the broker for %.0f s; connecting anew", now - self._heard)
        self.rebuilt += 1
        await self._close(polite=False)
        self._build()

    def _on_connect(self, client: mqtt.Client, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        if code.is_failure:
            self._post(self._failed, troubles.of_refusal(str(code)))
            return
        client.subscribe([(topic, 1) for topic in self._topics()])
        self._reconnecting.accepted()

    def _on_subscribe(self, _client: mqtt.Client, _data: Any, _mid: int, codes: Any, _properties: Any) -> None:
        """Only now is the device online: what is sent to it before the broker has the subscription goes nowhere."""
        refused = [topic for topic, code in zip(self._topics(), codes, strict=False) if code.is_failure]
        self._post(self._connected, refused)

    def _on_failure(self, error: Exception) -> None:
        self._post(self._failed, troubles.of_error(error, self._link.endpoint))

    def _on_open(self, _client: mqtt.Client, _data: Any, _socket: Any) -> None:
        self._post(self._open)

    def _on_disconnect(self, client: mqtt.Client, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        pause = self._reconnecting.ended()
        if pause is not None:
            client.reconnect_delay_set(max(1.0, pause), max(60.0, pause))  # type: ignore[arg-type]  # paho only adds it
        self._post(self._disconnected, str(code))

    def _on_message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        self._post(self._arrived, message.topic, bytes(message.payload))

    def _on_publish(self, _client: mqtt.Client, _data: Any, _mid: int, _code: Any, _properties: Any) -> None:
        self._heard = time.monotonic()  # a float store; no need to wake the loop for it

    def _post(self, call: Callable[..., None], *arguments: Any) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *arguments)

    # ---- on the event loop --------------------------------------------------------------------

    def _connected(self, refused: list[str]) -> None:
        self._heard = time.monotonic()
        self._sender = gobackn.connected(self._sender, self._heard)
        self._parted = False
        self._opened = 0.0
        self.connection.made(troubles.deaf(refused))
        self._say_online()
        self._notified("connected")
        self._wake.set()

    def _open(self) -> None:
        self._opened = time.monotonic()

    def _failed(self, trouble: Trouble) -> None:
        """An attempt failed: the first word about it counts, not what follows from it."""
        self._opened = 0.0
        self.connection.failed(trouble)

    def _disconnected(self, code: str) -> None:
        if self._sender.connected or self._opened:
            unsteady = troubles.unsteady(code, self._reconnecting.unsteady.ended_soon)
            self._failed(unsteady or troubles.closed(code))
        self._sender = gobackn.disconnected(self._sender)

    def _arrived(self, topic: str, payload: bytes) -> None:
        self._heard = time.monotonic()
        self._budget.count(down=len(payload))
        self._inbox.append((topic, payload))
        self._wake.set()

    def _say_online(self) -> None:
        self._beat = time.monotonic()
        now, agent, instance = self._clock(), self._link.agent, self._instance
        told = Status(
            state="online", session=self._session, at=now, agent=agent, instance=instance, vitals=self._vitals()
        )
        self._publish("status", encode_json(told))

    async def _part(self) -> None:
        """Number anew on each connection what was not sent before: a machine that was set back has to connect anew."""
        if self._parted or not self._sender.connected or self._spool.top <= self._most_sent:
            return
        self._parted = True
        try:
            await asyncio.to_thread(self._spool.part, self._most_sent)
        except SpoolError as error:  # a full disk: the numbers are good unless this machine was set back
            log.warning("the records go on with the numbers of the last connection: %s", error)

    def _pump(self, now: float) -> None:
        if not self._sender.connected:
            return
        if now - self._beat >= self._link.heartbeat_s:
            self._say_online()
        self._sender = gobackn.lost(self._sender, self._spool.base - 1)
        room = gobackn.room(self._sender)
        if not room or self._sender.sent >= self._spool.top:
            return
        series = self._spool.oldest  # the next one's turn comes when it has its receipts
        records = [one for one in self._spool.after(self._sender.sent, room) if one.seq <= series.last]
        for record in records:
            leaf: topics.Leaf = "telemetry" if record.kind == "window" else "report"
            self._publish(leaf, self._envelope(record, series))
        if records:
            self._sender = gobackn.sending(self._sender, records[-1].seq, now)
            self._most_sent = max(self._most_sent, records[-1].seq)

    def _publish(self, leaf: topics.Leaf, payload: bytes) -> None:
        if self._client is not None:
            self._client.publish(self._topic(leaf), payload, qos=1)
            self._budget.count(up=len(payload))

    def _envelope(self, record: Record, series: Series) -> bytes:
        return encode_msgpack(
            Envelope(
                device=self._link.device_id,
                spool=series.id,
                seq=series.number(record.seq),
                base=series.number(max(series.first, min(self._spool.base, record.seq))),
                at=record.at,
                kind=record.kind,
                body=msgspec.Raw(record.body),
            )
        )

    async def _receive(self, topic: str, payload: bytes) -> None:
        try:
            command, notify = self._topics()
            if topic == notify:
                self._notify(decode_control(payload, Notify))
            elif topic == command:
                await self._command(payload)
        except (DeniedError, ProtocolError) as error:
            log.warning("a message on %s is refused: %s", topic, error)
        except AgentError as error:
            log.error("a message on %s could not be carried out: %s", topic, error)

    def _notify(self, notify: Notify) -> None:
        delay = spread_delay(notify.version, self._link.device_id, notify.spread_s)
        assert self._loop is not None
        self._loop.call_later(delay, self._notified, f"channel version {notify.version}")

    async def _command(self, payload: bytes) -> None:
        command = await asyncio.to_thread(
            accept,
            payload,
            self._key(),
            verify=self._verify,
            device=self._link.device_id,
            counter=self._counter,
            now=self._clock(),
            clock_trusted=self._clock_trusted(),
        )
        upto = 0
        if command.kind == "receipt":
            try:
                receipt = msgspec.convert(command.args, Receipt)
            except msgspec.ValidationError as error:
                raise DeniedError(f"a receipt does not decode: {error}", subject=command.id) from error
            upto = await self._received(receipt)
        # The counter is durable before the command acts, in one step with what a receipt deletes.
        kept = {COUNTER: str(command.counter), LAST_COMMAND: payload.decode(errors="replace")}
        await asyncio.to_thread(self._spool.commit, upto, kept)
        self._counter = command.counter
        if command.kind == "receipt":
            self._sender = gobackn.receipt(self._sender, min(upto, self._spool.top), time.monotonic())
        else:
            self._handle(command)

    async def _received(self, receipt: Receipt) -> int:
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

    def _topics(self) -> tuple[str, str]:
        """What the device listens to: commands and receipts for itself, news of its channel."""
        link, prefix = self._link, self._link.endpoint.prefix
        return topics.command(link.device_id, prefix), topics.notify(link.channel, prefix)

    def _topic(self, leaf: topics.Leaf) -> str:
        return topics.uplink(self._link.device_id, leaf, self._link.endpoint.prefix)

    def _status(self, state: Literal["online", "lost"]) -> bytes:
        now, link = self._clock(), self._link
        said = Status(state=state, session=self._session, at=now, agent=link.agent, instance=self._instance)
        return encode_json(said)
