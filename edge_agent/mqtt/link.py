"""Names the broker and the device that connects to it, and makes paho's client for the two."""

from __future__ import annotations

import logging
import ssl

import paho.mqtt.client as mqtt
from msgspec import Struct
from paho.mqtt.enums import CallbackAPIVersion

from edge_agent.errors import AgentError
from edge_agent.mqtt import gobackn
from edge_agent.mqtt.connection import PahoClient
from fleet.mqtt import lasting_session
from fleet.protocol import topics
from fleet.protocol.messages import MqttEndpoint

log = logging.getLogger(__name__)

HEARTBEAT_S = 30.0
SESSION_S = 14 * 86_400  # for which a broker keeps a device's session; one of 3.1.1 has a setting of its own for it


class Link(Struct, frozen=True, kw_only=True):
    """A broker, and the device that connects to it. `context` is the device's TLS context when the endpoint has TLS."""

    device_id: str
    channel: str
    endpoint: MqttEndpoint
    context: ssl.SSLContext | None = None
    agent: str = ""
    heartbeat_s: float = HEARTBEAT_S
    traced: bool = False  # messages carry traces, which takes MQTT 5; else it is MQTT 3.1.1

    @property
    def subscriptions(self) -> tuple[str, str]:
        """The topics of commands and receipts for this device, and of its channel's news.

        Raises:
            ProtocolError: device or channel has no name that a topic may hold.
        """
        prefix = self.endpoint.prefix
        return topics.command(self.device_id, prefix), topics.notify(self.channel, prefix)

    def topic(self, leaf: topics.Leaf) -> str:
        """The topic of this device's messages of one kind; raises as `subscriptions` does."""
        return topics.uplink(self.device_id, leaf, self.endpoint.prefix)


def make_client(link: Link) -> PahoClient:
    """A client that is not connected yet.

    Raises:
        AgentError: the broker wants TLS, and there is no certificate. ValueError: paho refuses the link.
    """
    client = PahoClient(
        CallbackAPIVersion.VERSION2,
        client_id=link.device_id,
        protocol=mqtt.MQTTv5 if link.traced else mqtt.MQTTv311,
        clean_session=None if link.traced else False,
    )
    if link.endpoint.tls:
        if link.context is None:
            raise AgentError("the broker wants TLS and this device has no certificate", hint="enrol again")
        client.tls_set_context(link.context)
    else:
        client.username_pw_set(link.device_id, link.endpoint.password)
    client.max_inflight_messages_set(gobackn.WINDOW)
    client.max_queued_messages_set(gobackn.WINDOW * 2)
    client.reconnect_delay_set(1, 60)
    return client


def begin_connecting(client: PahoClient, link: Link) -> None:
    """Have the client's thread connect, to the session that the broker keeps; raises ValueError as paho does."""
    host, port, alive_s = link.endpoint.host, link.endpoint.port, max(5, int(link.heartbeat_s))
    if link.traced:
        client.connect_async(host, port, alive_s, clean_start=False, properties=lasting_session(SESSION_S))
    else:
        client.connect_async(host, port, alive_s)


def end_client(client: mqtt.Client, topic: str, goodbye: bytes | None) -> None:
    """Say goodbye where that is wanted and possible, and wait for the client's thread.

    Args:
        client: paho's, with its thread.
        topic: of the last message.
        goodbye: the last message; None for none.
    """
    if goodbye is not None and client.is_connected():
        info = client.publish(topic, goodbye, qos=1)
        try:
            info.wait_for_publish(1.0)
        except (RuntimeError, ValueError) as error:
            log.debug("the goodbye did not leave: %s", error)
    client.disconnect()
    client.loop_stop()
