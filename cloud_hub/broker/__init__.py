"""The MQTT broker that the hub starts or joins, and the hub's own connection to it.

mosquitto   Debian's Mosquitto as a child process: mutual TLS, default-deny per device
revocation  who may not go on, and the end of the connections that they have
replica     the name that each hub on one database has at the broker
leftover    the Mosquitto of a hub that was killed
embedded    amqtt in this process, for one machine without Mosquitto
link        the hub's connection
choose      which of them, from the configuration
"""

from __future__ import annotations

from cloud_hub.broker.choose import open_link

__all__ = ["open_link"]
