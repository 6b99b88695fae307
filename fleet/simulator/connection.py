"""A device's MQTT connection: paho without a thread, so that thousands share one event loop."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from edge_agent.identity.enroll import Enrollment
from edge_agent.mqtt import gobackn
from fleet.protocol import topics
from fleet.simulator.device import HEARTBEAT_S
from fleet.simulator.outbox import Send

SOCKET_CALLS = ("open", "close", "register_write", "unregister_write")
CONNECT_S = 20.0  # for TCP, TLS and the broker's answer


class Connection:
    """One connection at a time. `on_open`, `on_lost` and `on_message` are called on the event loop."""

    def __init__(
        self,
        enrollment: Enrollment,
        loop: asyncio.AbstractEventLoop,
        connecting: Executor,
        *,
        context: ssl.SSLContext | None,
        on_open: Callable[[], None],
        on_lost: Callable[[str], None],
        on_message: Callable[[str, bytes], None],
    ) -> None:
        self._id, self._channel, self._endpoint = enrollment.device_id, enrollment.channel, enrollment.mqtt
        self._loop, self._connecting, self._context = loop, connecting, context
        self._on_open, self._on_lost, self._on_message = on_open, on_lost, on_message
        self._client: mqtt.Client | None = None

    async def open(self, will: Send) -> None:
        """Connect and log in; what fails is told to `on_lost`, and so is the end of what succeeded."""
        client = self._client = self._made(will)
        host, port = self._endpoint.host, self._endpoint.port
        try:
            await self._loop.run_in_executor(self._connecting, client.connect, host, port, int(HEARTBEAT_S))
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            self._lost(client, f"{type(error).__name__}: {error}")
            return
        self._loop.call_later(CONNECT_S, self._silent, client)

    def publish(self, sends: list[Send]) -> None:
        """Hand over what is to be sent."""
        for send in sends:
            if self._client is not None:
                self._client.publish(send.topic, send.payload, qos=1)

    def tend(self) -> None:
        """Do paho's periodic work: pings, and the end of a connection that does not answer them."""
        if self._client is not None:
            self._client.loop_misc()

    def close(self, *, polite: bool = True) -> None:
        """End it; without `polite` the broker has to find out by itself, as when the power fails."""
        client, self._client = self._client, None
        if client is None:
            return
        client.on_disconnect = None
        if polite:
            client.disconnect()
        for name in SOCKET_CALLS:  # paho would call them once more when nobody holds the client any longer
            setattr(client, f"on_socket_{name}", None)
        sock = client.socket()
        if sock is not None:
            self._unwatch(sock)
            sock.close()

    def _made(self, will: Send) -> mqtt.Client:
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=self._id, protocol=mqtt.MQTTv311, clean_session=False
        )
        if self._context is not None:
            client.tls_set_context(self._context)
        else:
            client.username_pw_set(self._id, self._endpoint.password)
        client.max_inflight_messages_set(gobackn.WINDOW)
        client.max_queued_messages_set(0)  # the device itself bounds what it hands over
        client.will_set(will.topic, will.payload, qos=1)
        client.on_connect, client.on_disconnect, client.on_message = self._connected, self._ended, self._arrived
        client.on_subscribe = self._subscribed
        client.on_socket_open = lambda _c, _d, sock: self._post(self._watch, client, sock)
        client.on_socket_close = lambda _c, _d, sock: self._unwatch(sock)
        client.on_socket_register_write = lambda _c, _d, sock: self._post(self._watch_writes, client, sock)
        client.on_socket_unregister_write = lambda _c, _d, sock: self._now(self._loop.remove_writer, sock)
        return client

    # ---- paho's callbacks; those of a connection that is being made come from a thread ---------------

    def _post(self, call: Callable[..., Any], *arguments: Any) -> None:
        self._loop.call_soon_threadsafe(call, *arguments)

    def _watch(self, client: mqtt.Client, sock: Any) -> None:
        if sock.fileno() >= 0:
            self._loop.add_reader(sock, self._read, client, sock)

    def _watch_writes(self, client: mqtt.Client, sock: Any) -> None:
        if sock.fileno() >= 0:
            self._loop.add_writer(sock, client.loop_write)

    def _unwatch(self, sock: Any) -> None:
        self._now(self._loop.remove_reader, sock)
        self._now(self._loop.remove_writer, sock)

    def _now(self, call: Callable[[int], Any], sock: Any) -> None:
        """Before the socket is closed: its number may be another one's a moment later, and the loop would take that
        one's events away, or keep this one's."""
        number = sock.fileno()
        if number < 0:
            return
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:  # a thread that connects
            here = False
        if here:
            call(number)
        else:
            self._post(call, number)

    def _read(self, client: mqtt.Client, sock: Any) -> None:
        client.loop_read()
        while isinstance(sock, ssl.SSLSocket) and sock.fileno() >= 0 and sock.pending():
            client.loop_read()  # decrypted already: the selector will not speak of it

    def _connected(self, client: mqtt.Client, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        if code.is_failure:
            self._lost(client, f"the broker refuses the login: {code}")
            return
        prefix = self._endpoint.prefix
        client.subscribe([(topics.command(self._id, prefix), 1), (topics.notify(self._channel, prefix), 1)])

    def _subscribed(self, client: mqtt.Client, _data: Any, _mid: int, _codes: Any, _properties: Any) -> None:
        if client is self._client:
            self._on_open()

    def _arrived(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        self._on_message(message.topic, bytes(message.payload))

    def _ended(self, client: mqtt.Client, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        self._lost(client, f"the connection ended: {code}")

    def _silent(self, client: mqtt.Client) -> None:
        if client is self._client and not client.is_connected():
            self._lost(client, f"the broker does not answer for {CONNECT_S:g} s")

    def _lost(self, client: mqtt.Client, why: str) -> None:
        if client is self._client:
            self.close(polite=False)
            self._on_lost(why)
