"""paho's client at work: what it says on its own thread is told on the event loop, and a silent one is given up.

paho's network thread waits for its socket and only hands over what arrived. It can be lost to a TLS error, so a
watchdog builds a new client after a silence.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import paho.mqtt.client as mqtt
from msgspec.structs import replace

from edge_agent.errors import AgentError
from edge_agent.mqtt import troubles
from edge_agent.mqtt.connection import Connection, PahoClient
from edge_agent.mqtt.link import Link, begin_connecting, end_client, make_client
from edge_agent.mqtt.reconnecting import Reconnecting
from edge_agent.mqtt.troubles import Trouble
from fleet.mqtt import carried_by, properties_of
from fleet.protocol.errors import ProtocolError
from fleet.protocol.messages import MqttEndpoint

log = logging.getLogger(__name__)

ANSWER_S = 10.0  # for the broker to answer login and subscription, then what is wrong is said
SILENCE = 2.5  # heartbeats without a sign from the broker, then the client is rebuilt
CALLBACKS = (
    "on_connect",
    "on_subscribe",
    "on_disconnect",
    "on_message",
    "on_publish",
    "on_failure",
    "on_socket_open",
)


class Listener(Protocol):
    """Hears on the event loop what becomes of the connection."""

    def connected(self) -> None:
        """The broker has taken login and subscriptions, and not before."""

    def disconnected(self) -> None:
        """The connection is gone, or another client takes its place."""

    def arrived(self, topic: str, payload: bytes, carried: Mapping[str, str]) -> None:
        """A message came.

        Args:
            topic: one of the link's subscriptions.
            payload: nothing of it is verified.
            carried: names the trace that the message belongs to; empty without one.
        """


class BrokerClient:
    """One client at a time, to the broker of the link that `open` was given last."""

    def __init__(self, listener: Listener, connection: Connection, twice: Callable[[], bool]) -> None:
        """Connect nowhere yet.

        Args:
            listener: hears of the connection and of messages.
            connection: is told how it stands, for people.
            twice: whether the hub sees this identity in use twice.
        """
        self._listener, self.connection = listener, connection
        self._reconnecting = Reconnecting(twice)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: PahoClient | None = None
        self._link: Link | None = None
        self._opened = 0.0  # since when a connection stands that is not online; 0: none does
        self._heard = 0.0
        self._refuses_5: MqttEndpoint | None = None  # the broker that ended a login by MQTT 5
        self.online = False

    def open(self, link: Link, will: bytes) -> None:
        """Begin to connect by `link`, again and again, with `will` as the last will.

        A link that cannot be one's is a trouble that is shown, and no more: the hub may soon name another broker.
        """
        self._loop = asyncio.get_running_loop()
        self._heard = time.monotonic()
        self._link = replace(link, traced=link.traced and link.endpoint != self._refuses_5)
        self.connection.begin(link.endpoint)
        try:
            self._client = self._made(self._link, will)
        except (AgentError, ProtocolError, ValueError) as error:  # ValueError: paho's, of a host, port or topic
            self.connection.failed(troubles.of_error(error, link.endpoint))

    def _made(self, link: Link, will: bytes) -> PahoClient:
        client = make_client(link)
        client.will_set(link.topic("status"), will, qos=1)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_failure = self._on_failure
        client.on_socket_open = self._on_open
        begin_connecting(client, link)
        client.loop_start()
        return client

    async def close(self, goodbye: bytes | None) -> None:
        """Give the client up, and say `goodbye` where there is one and a connection.

        Its thread ends in a second or so, which the requests of applications do not wait for.
        """
        client, self._client = self._client, None
        if client is None or self._link is None:
            return
        self._gone()
        for name in CALLBACKS:
            setattr(client, name, None)
        await asyncio.to_thread(end_client, client, self._link.topic("status"), goodbye)

    def publish(self, topic: str, payload: bytes, carried: Mapping[str, str]) -> bool:
        """Hand a message to the client, to be delivered at least once; false without one.

        Args:
            topic: of this device.
            payload: an envelope or a status.
            carried: names the trace that the message carries, where the connection can.
        """
        if self._client is None or self._link is None:
            return False
        properties = properties_of(carried) if self._link.traced else None
        self._client.publish(topic, payload, qos=1, properties=properties)
        return True

    def watch(self, now: float) -> bool:
        """Say what is wrong with a broker that does not answer; true when the client is to be given up at `now`."""
        if self._link is None:
            return False
        if self._link.traced and self._link.endpoint == self._refuses_5:
            log.info("the broker ended a login by MQTT 5; connecting by MQTT 3.1.1, whose messages carry no traces")
            return True
        if self._opened and now - self._opened > ANSWER_S:
            self._failed(troubles.silent(self._link.endpoint, ANSWER_S))
        quiet = now - max(self._heard, self._reconnecting.until)
        if quiet < SILENCE * self._link.heartbeat_s + 60.0 * (not self.online):
            return False
        log.warning("nothing heard from the broker for %.0f s; connecting anew", now - self._heard)
        return True

    # ---- on paho's thread ---------------------------------------------------------------------

    def _on_connect(self, client: mqtt.Client, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        if code.is_failure:
            self._post(self._refused, str(code))
            return
        assert self._link is not None
        client.subscribe([(topic, 1) for topic in self._link.subscriptions])
        self._reconnecting.accepted()

    def _on_subscribe(self, _client: mqtt.Client, _data: Any, _mid: int, codes: Any, _properties: Any) -> None:
        """Only now is the device online: what is sent to it before the broker has the subscription goes nowhere."""
        assert self._link is not None
        asked = self._link.subscriptions
        refused = [topic for topic, code in zip(asked, codes, strict=False) if code.is_failure]
        self._post(self._connected, refused)

    def _on_failure(self, error: Exception) -> None:
        if self._link is not None:
            self._post(self._failed, troubles.of_error(error, self._link.endpoint))

    def _on_open(self, _client: mqtt.Client, _data: Any, _socket: Any) -> None:
        self._post(self._open)

    def _on_disconnect(self, client: mqtt.Client, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        pause = self._reconnecting.ended()
        if pause is not None:
            client.reconnect_delay_set(max(1.0, pause), max(60.0, pause))  # type: ignore[arg-type]  # paho only adds it
        self._post(self._disconnected, str(code))

    def _on_message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        self._post(self._arrived, message.topic, bytes(message.payload), carried_by(message))

    def _on_publish(self, _client: mqtt.Client, _data: Any, _mid: int, _code: Any, _properties: Any) -> None:
        self._heard = time.monotonic()  # a float store; no need to wake the loop for it

    def _post(self, call: Callable[..., None], *arguments: Any) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *arguments)

    # ---- on the event loop --------------------------------------------------------------------

    def _connected(self, refused: list[str]) -> None:
        self._heard, self._opened, self.online = time.monotonic(), 0.0, True
        self.connection.made(troubles.deaf(refused))
        self._listener.connected()

    def _open(self) -> None:
        self._opened = time.monotonic()

    def _refused(self, code: str) -> None:
        self._try_older()
        self._failed(troubles.of_refusal(code))

    def _try_older(self) -> None:
        """A broker that does not speak MQTT 5 refuses it, or ends the connection without a word."""
        if self._link is not None and self._link.traced:
            self._refuses_5 = self._link.endpoint
            self._listener.disconnected()  # which wakes whoever looks after this client

    def _failed(self, trouble: Trouble) -> None:
        """An attempt failed: the first word about it counts, not what follows from it."""
        self._opened = 0.0
        self.connection.failed(trouble)

    def _disconnected(self, code: str) -> None:
        if self._opened and not self.online:
            self._try_older()
        if self.online or self._opened:
            unsteady = troubles.unsteady(code, self._reconnecting.unsteady.ended_soon)
            self._failed(unsteady or troubles.closed(code))
        self._gone()

    def _gone(self) -> None:
        self.online = False
        self._listener.disconnected()

    def _arrived(self, topic: str, payload: bytes, carried: Mapping[str, str]) -> None:
        self._heard = time.monotonic()
        self._listener.arrived(topic, payload, carried)
