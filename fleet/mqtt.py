"""paho's client, as agent and hub use it."""

from __future__ import annotations

import contextlib
import select
import ssl
from collections.abc import Mapping

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

CARRIED = ("traceparent", "tracestate")  # W3C's trace context, of which no value is longer than 512 characters
LONGEST = 512
_HEARD = select.POLLIN | select.POLLHUP | select.POLLERR


class Client(paho.Client):
    """Waits for its sockets by poll(2).

    paho's own waits by select(2), which takes no descriptor above 1023. A process with more than that open (an agent
    with many applications, a hub with a thousand devices) lost its broker at the next reconnect, for good: each
    connection ended as it began, and nobody was told why.
    """

    def _loop(self, timeout: float = 1.0) -> MQTTErrorCode:
        """Wait up to `timeout` seconds for something to read or write, and do it; as paho's does."""
        sock, wakes = self.socket(), self._sockpairR
        if sock is None:
            return MQTTErrorCode.MQTT_ERR_NO_CONN
        waiting = select.poll()
        try:
            waiting.register(sock, select.POLLIN | (select.POLLOUT if self.want_write() else 0))
            if wakes is not None:
                waiting.register(wakes, select.POLLIN)
        except ValueError:  # somebody has closed it meanwhile
            return MQTTErrorCode.MQTT_ERR_CONN_LOST
        place, signal = sock.fileno(), wakes.fileno() if wakes is not None else -1
        decrypted = isinstance(sock, ssl.SSLSocket) and sock.pending() > 0  # of which the kernel knows nothing
        ready = dict(waiting.poll(0 if decrypted else timeout * 1000))
        if decrypted or ready.get(place, 0) & _HEARD:
            code = self.loop_read()
            if code != MQTTErrorCode.MQTT_ERR_SUCCESS or self.socket() is None:
                return code
        if wakes is not None and signal in ready:  # another thread has published
            with contextlib.suppress(BlockingIOError):
                wakes.recv(10_000)
        if signal in ready or ready.get(place, 0) & select.POLLOUT:
            code = self.loop_write()
            if code != MQTTErrorCode.MQTT_ERR_SUCCESS or self.socket() is None:
                return code
        return self.loop_misc()


def properties_of(carried: Mapping[str, str]) -> Properties | None:
    """User properties that carry a trace with a message of MQTT 5; None without a trace."""
    if not carried:
        return None
    found = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    found.UserProperty = list(carried.items())
    return found


def carried_by(message: paho.MQTTMessage) -> dict[str, str]:
    """The trace context among a message's user properties; empty for one of MQTT 3.1.1, which has none."""
    given = getattr(message.properties, "UserProperty", ()) if message.properties is not None else ()
    return {name: value for name, value in given if name in CARRIED and len(value) <= LONGEST}


def lasting_session(keep_s: int) -> Properties:
    """Properties of a login by MQTT 5 whose session the broker keeps for so many seconds after the connection."""
    found = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    found.SessionExpiryInterval = keep_s
    return found
