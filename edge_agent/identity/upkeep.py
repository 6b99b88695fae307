"""Keeps the device's own identity at a look, before any metadata is read, in a process of its own.

It follows the broker that the hub names, and renews its certificate when the hub says so or the disk has damaged it.
Neither failing keeps a look from going on: the trouble is a word and a text, which the look then reports.

`python -m edge_agent.identity.upkeep DIR` reads a `DeviceMe` from stdin and writes an `IdentityTrouble` as JSON. A look
starts it only when there is something to do. So what reads metadata and fetches models never has a key that is being
made; a kill of either leaves files that the next one goes on from (`pairs`).
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct

from edge_agent.config import AgentConfig, load_config
from edge_agent.errors import AgentError
from edge_agent.host.child_process import end_with_parent, leave_no_core
from edge_agent.identity.certificates import fits
from edge_agent.identity.enroll import load_enrollment
from edge_agent.update.rules.hints import USED_TWICE
from fleet.protocol.errors import ProtocolError
from fleet.protocol.messages import IN_USE_TWICE, DeviceMe

WALL_S = 300.0  # for the whole of it: six questions to the hub, each of at most 30 s of silence
NOT_FOLLOWED, NOT_RENEWED = "broker-not-followed", "certificate-not-renewed"


class IdentityTrouble(Struct, frozen=True):
    """The first problem, in a word and in detail; both are empty without one."""

    word: str = ""
    detail: str = ""


def keep_identity(config: AgentConfig, mine: DeviceMe, *, at_hub: bool) -> IdentityTrouble:
    """Follow the broker and renew the certificate as the hub says.

    Args:
        config: whose identity it is.
        mine: what the hub says of this device.
        at_hub: false for a bundle, which can renew nothing.

    Returns:
        What is wrong with the identity: that it is in use twice comes before what could not be done.
    """
    found = _in_own_process(config, mine) if _is_due(config, mine, at_hub) else IdentityTrouble()
    return IdentityTrouble(IN_USE_TWICE, USED_TWICE) if mine.in_use_twice else found


def _is_due(config: AgentConfig, mine: DeviceMe, at_hub: bool) -> bool:
    try:
        moved = mine.mqtt is not None and mine.mqtt != load_enrollment(config.dir).mqtt
    except AgentError:
        moved = True  # the process says what is wrong
    return moved or mine.renew or (at_hub and not fits(config.identity))


def _in_own_process(config: AgentConfig, mine: DeviceMe) -> IdentityTrouble:
    command = [sys.executable, "-m", "edge_agent.identity.upkeep", str(config.dir)]
    try:
        ended = subprocess.run(
            command, input=msgspec.json.encode(mine), stdout=subprocess.PIPE, timeout=WALL_S, check=False
        )
        return msgspec.json.decode(ended.stdout, type=IdentityTrouble)
    except subprocess.TimeoutExpired:
        return IdentityTrouble(NOT_RENEWED, f"the renewal had not ended after {WALL_S:g} s, and was ended")
    except (OSError, msgspec.DecodeError) as error:
        return IdentityTrouble(NOT_RENEWED, f"the process that renews has ended without a word: {error}")


def keep(config: AgentConfig, mine: DeviceMe) -> IdentityTrouble:
    """Do what is due, here; a broker that cannot be followed keeps no certificate from being renewed."""
    from edge_agent.identity.http import HubHttp
    from edge_agent.identity.renew import follow_broker, renew_pair

    def renew_where_due() -> None:
        """Also without being told to where the disk damaged the certificate: the key proves who this is."""
        if mine.renew or not fits(config.identity):
            timeout_s, slack_s = config.connect_timeout_s, config.clock_slack_s
            renew_pair(HubHttp(config.dir, connect_timeout_s=timeout_s, clock_slack_s=slack_s), config.identity)

    steps: tuple[tuple[str, Callable[[], object]], ...] = (
        (NOT_FOLLOWED, lambda: follow_broker(config.dir, mine)),
        (NOT_RENEWED, renew_where_due),
    )
    trouble = IdentityTrouble()
    for word, step in steps:
        try:
            step()
        except (AgentError, ProtocolError, OSError) as error:
            trouble = trouble if trouble.word else IdentityTrouble(word, str(error))
    return trouble


def main(argv: list[str]) -> int:
    """Entry point of the process; always 0, since its line says what is wrong."""
    end_with_parent()
    leave_no_core()
    mine = msgspec.json.decode(sys.stdin.buffer.read(), type=DeviceMe)
    sys.stdout.buffer.write(msgspec.json.encode(keep(load_config(Path(argv[0])), mine)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
