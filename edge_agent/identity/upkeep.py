"""What a device does about its own identity at every look, before it reads any metadata.

It follows the broker that the hub names, and renews its certificate when the hub says so or the disk has damaged it.
Neither failing keeps a look from going on: the trouble is a word and a text, which the look then reports.
"""

from __future__ import annotations

from pathlib import Path

from edge_agent.config import AgentConfig
from edge_agent.errors import AgentError
from edge_agent.identity.certificates import fits
from edge_agent.identity.renew import HubDoor, follow, renew
from edge_agent.update.rules.hints import USED_TWICE
from fleet.protocol.errors import ProtocolError
from fleet.protocol.messages import IN_USE_TWICE, DeviceMe


def keep_identity(hub: HubDoor, config: AgentConfig, mine: DeviceMe, *, at_hub: bool) -> tuple[str, str]:
    """Follow the broker and renew the certificate as the hub says.

    Args:
        hub: who is asked for a new certificate.
        config: whose identity it is.
        mine: what the hub says of this device.
        at_hub: false for a bundle, which can renew nothing.

    Returns:
        The first problem, in a word and in detail; two empty texts without one.
    """
    trouble = (IN_USE_TWICE, USED_TWICE) if mine.in_use_twice else ("", "")
    for word, work in (
        ("broker-not-followed", lambda: follow(config.dir, mine)),
        ("certificate-not-renewed", lambda: _renew(hub, config.identity, mine, at_hub)),
    ):
        try:
            work()
        except (AgentError, ProtocolError, OSError) as error:
            trouble = trouble if trouble[0] else (word, str(error))
    return trouble


def _renew(hub: HubDoor, identity: Path, mine: DeviceMe, at_hub: bool) -> None:
    """Also without being told to where the disk damaged the certificate: the key proves who this is."""
    if mine.renew or (at_hub and not fits(identity)):
        renew(hub, identity)
