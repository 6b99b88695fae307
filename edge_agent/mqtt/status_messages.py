"""The messages that say whether the device is online, with how its machine does."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

from edge_agent.mqtt.link import Link
from fleet.protocol.codec import encode_json
from fleet.protocol.messages import Status, Vitals


class StatusMessages:
    """Writes them; every message of a process names the process (`Status.instance`)."""

    def __init__(
        self, clock: Callable[[], float] = time.time, vitals: Callable[[], Vitals | None] = lambda: None
    ) -> None:
        """Write with the time of `clock` (seconds since 1970) and what `vitals` says of the machine."""
        self.clock, self._vitals = clock, vitals
        self._instance = secrets.token_hex(8)

    def online(self, link: Link, session: str) -> bytes:
        """Say in `session` that the device is there: at the beginning of a connection, and as its heartbeat."""
        told = Status(
            state="online",
            session=session,
            at=self.clock(),
            agent=link.agent,
            instance=self._instance,
            vitals=self._vitals(),
        )
        return encode_json(told)

    def lost(self, link: Link, session: str) -> bytes:
        """Say that the device is gone: as the client's last will, and as a goodbye."""
        told = Status(state="lost", session=session, at=self.clock(), agent=link.agent, instance=self._instance)
        return encode_json(told)
