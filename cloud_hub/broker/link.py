"""The hub's connection to the broker: MQTT 3.1.1, or 5 where messages carry traces; quality of service 1, a clean
session.

A clean session is enough: what must not be lost lies in the devices' spools until its receipt.
"""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable, Collection, Mapping
from types import TracebackType
from typing import Any

import paho.mqtt.client as mqtt
from msgspec import Struct
from paho.mqtt.enums import CallbackAPIVersion

from cloud_hub.errors import UnreachableError
from fleet.mqtt import Client, carried_by, properties_of
from fleet.protocol import topics
from fleet.protocol.errors import ProtocolError

log = logging.getLogger(__name__)
Arrived = Callable[[str, bytes, Mapping[str, str]], None]  # topic, payload, the trace that the message carries
CONNECT_S = 20.0
AT_ONCE = 8  # subscriptions in one request; AWS IoT takes no more


class Address(Struct, frozen=True, kw_only=True):
    """The broker's address and the hub's proof of identity there: certificate files, or a login."""

    host: str
    port: int
    client_id: str
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    username: str = ""
    password: str = ""
    traced: bool = False  # by MQTT 5, whose messages carry traces


class Link:
    """A context manager; inside it messages of all devices come to `arrived`, on the client's thread."""

    def __init__(
        self,
        address: Address,
        prefix: str,
        arrived: Arrived,
        stands: Callable[[str], None] = lambda wrong: None,
        digits: Collection[str] = topics.DIGITS,
    ) -> None:
        """`stands` hears, on the client's thread, what is wrong with the connection; an empty text: nothing.

        `digits` are the shards whose devices are heard, until `follow` says otherwise.
        """
        self._address, self._stands = address, stands
        self._prefix, self._filters = prefix, topics.uplink_filters(digits, prefix)
        self._changing = threading.Lock()
        self._arrived = arrived
        self._ready = threading.Event()
        self._refusal = ""
        self._connected = False
        self._asked = set[int | None]()  # subscriptions without an answer yet
        self._client = self._make()

    def __enter__(self) -> Link:
        """Connect and subscribe.

        Raises:
            UnreachableError: no broker, or it refuses the hub.
        """
        address = self._address
        try:
            if address.traced:
                self._client.connect(address.host, address.port, keepalive=30, clean_start=True)
            else:
                self._client.connect(address.host, address.port, keepalive=30)
        except (OSError, ssl.SSLError) as error:
            raise UnreachableError(
                f"the broker at {address.host}:{address.port} does not answer: {error}", subject="broker"
            ) from error
        self._client.loop_start()
        if not self._ready.wait(CONNECT_S) or self._refusal:
            self._client.loop_stop()
            raise UnreachableError(f"the broker refuses the hub: {self._refusal or 'no answer'}", subject="broker")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        self._stands("the connection was closed")

    def publish(self, topic: str, payload: bytes, carried: Mapping[str, str] | None = None) -> None:
        """Hand a message to the broker; while it is away the client keeps it until it is back.

        Args:
            topic: of one device or of a channel.
            payload: what is signed, or a notice.
            carried: names the trace that the message carries, where the connection can.
        """
        properties = properties_of(carried) if carried and self._address.traced else None
        self._client.publish(topic, payload, qos=1, properties=properties)

    @property
    def hears(self) -> bool:
        """True while the broker is there and has granted every subscription: else no device is heard here."""
        with self._changing:
            return self._connected and not self._asked and not self._refusal

    def check(self) -> None:
        """Raise UnreachableError when the broker refuses a subscription: only a new connection asks for it again."""
        with self._changing:
            if self._connected and self._refusal:
                raise UnreachableError(f"the broker refuses the hub: {self._refusal}", subject="broker")

    def follow(self, digits: Collection[str]) -> None:
        """Hear the devices of these shards and no others; after a reconnect, too."""
        with self._changing:
            before, self._filters = self._filters, topics.uplink_filters(digits, self._prefix)
            self._subscribe(self._client, self._filters - before)
            if before - self._filters:
                self._client.unsubscribe(sorted(before - self._filters))

    def _subscribe(self, client: mqtt.Client, filters: Collection[str]) -> None:
        wishes = [(one, 1) for one in sorted(filters)]
        for at in range(0, len(wishes), AT_ONCE):
            code, number = client.subscribe(wishes[at : at + AT_ONCE])
            if code == mqtt.MQTT_ERR_SUCCESS:  # without a connection it is asked for with the next one
                self._asked.add(number)

    def _make(self) -> mqtt.Client:
        address = self._address
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=address.client_id,
            protocol=mqtt.MQTTv5 if address.traced else mqtt.MQTTv311,
            clean_session=None if address.traced else True,
        )
        if address.ca_file:
            client.tls_set(
                ca_certs=address.ca_file, certfile=address.cert_file or None, keyfile=address.key_file or None
            )
        if address.username:
            client.username_pw_set(address.username, address.password)
        client.max_queued_messages_set(10_000)
        client.reconnect_delay_set(1, 10)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_disconnect = self._on_disconnect
        return client

    def _on_connect(self, client: mqtt.Client, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        if code.is_failure:
            self._refusal = str(code)
            self._stands(f"the broker refuses the hub: {code}")
            self._ready.set()
            return
        with self._changing:
            self._refusal, self._connected = "", True
            self._asked.clear()
            self._subscribe(client, self._filters)
        if not self._filters:  # nobody is this hub's yet
            self._stands("")
            self._ready.set()

    def _on_subscribe(self, _client: mqtt.Client, _data: Any, number: int, codes: Any, _properties: Any) -> None:
        with self._changing:
            self._asked.discard(number)
            if any(code.is_failure for code in codes):
                self._refusal = f"no subscription to {', '.join(sorted(self._filters))}"
        self._stands(self._refusal)
        self._ready.set()

    def _on_message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        if message.retain:
            return  # kept by the broker from who knows when: no news of a device, and no sign of its life
        try:
            topics.parse_uplink(message.topic, self._prefix)
        except ProtocolError as error:  # nobody's: no device to hold it against, and no place of its own in the inbox
            log.debug("a message is refused: %s", error)
            return
        self._arrived(message.topic, bytes(message.payload), carried_by(message))

    def _on_disconnect(self, _client: mqtt.Client, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        with self._changing:
            self._connected = False
        if code.is_failure:
            log.warning("the connection to the broker is gone: %s", code)
            self._stands(f"the connection is gone: {code}")
