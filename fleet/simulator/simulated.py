"""A simulated device with its connection, on the event loop of its host."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edge_agent.errors import AgentError
from edge_agent.identity import pairs
from edge_agent.identity.enroll import Enrollment
from fleet.protocol.errors import ProtocolError
from fleet.simulator.calls import Calls
from fleet.simulator.connection import Connection
from fleet.simulator.device import Enrolled, SimulatedDevice
from fleet.simulator.outbox import Counts, Send
from fleet.simulator.profiles import PROFILES
from fleet.simulator.view import View
from fleet.simulator.work import Member, Work

PAUSE_S, LONGEST_PAUSE_S = 2.0, 60.0


class Host(Protocol):
    """The services that a process gives to its devices."""

    work: Work
    counts: Counts
    loop: asyncio.AbstractEventLoop
    threads: ThreadPoolExecutor
    random: np.random.Generator
    calls: Calls

    def now(self) -> float:
        """Seconds since the start of the simulation."""

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run it beside the rest."""

    def trouble(self, why: str) -> None:
        """Count what went wrong, by its words."""

    def schedule(self, simulated: Simulated) -> None:
        """Wake the device when it next has something to do."""

    async def view(self) -> View:
        """The channel as it is now."""


class Simulated:
    """A device with its connection; all on the event loop."""

    def __init__(self, host: Host, member: Member, enrollment: Enrollment) -> None:
        self.device = SimulatedDevice(
            Enrolled(enrollment.device_id, enrollment.channel, enrollment.mqtt.prefix),
            PROFILES[member.profile],
            host.counts,
            seed=host.work.seed,
            started=host.work.started_at,
            shadows=member.shadows,
        )
        self.directory = Path(host.work.directory) / member.name
        self._host = host
        self._pause = PAUSE_S
        self._opening = self.off = False
        context = _context(self.directory) if enrollment.mqtt.tls else None
        self._connection = Connection(
            enrollment,
            host.loop,
            host.threads,
            context=context,
            on_open=self._opened,
            on_lost=self._lost,
            on_message=self._heard,
        )

    def start(self) -> None:
        """Connect, unless it is off or connects already."""
        if not (self._opening or self.device.online or self.off):
            self._opening = True
            self._host.spawn(self._connection.open(self.device.will()))

    def switch(self, off: bool) -> None:
        """Cut the power, or give it back."""
        if off and not self.off:
            self.off, self._opening = True, False
            self._connection.close(polite=False)
            self.device.disconnected()
        elif self.off and not off:
            self.off = False
            self.start()

    def wake(self) -> None:
        """Do what is due now, and ask to be called again."""
        if self.off:
            return
        now = self._host.now()
        self._send(self.device.wake(now))
        if self.device.begins_look(now):
            self._host.spawn(self._look())

    def tend(self) -> None:
        """See `Connection.tend`."""
        self._connection.tend()

    def stop(self) -> None:
        """Say goodbye."""
        self._connection.close()

    async def _look(self) -> None:
        host = self._host
        try:
            view = await host.view()
            me = await host.loop.run_in_executor(host.threads, host.calls.me, self.device.id, self.directory)
            self._send(self.device.looked(view, me, host.now()))
        except (AgentError, ProtocolError, OSError) as error:
            host.trouble(f"look: {error}")
            self.device.not_looked(host.now(), self._pause)
            self._host.schedule(self)

    def _opened(self) -> None:
        self._opening, self._pause = False, PAUSE_S
        self._send(self.device.connected(self._host.now()))
        self.wake()

    def _lost(self, why: str) -> None:
        self._opening = False
        self.device.disconnected()
        self._host.trouble(why)
        if not self.off:
            pause = self._pause * (0.5 + self._host.random.random())
            self._pause = min(self._pause * 2, LONGEST_PAUSE_S)
            self._host.loop.call_later(pause, self.start)

    def _heard(self, topic: str, payload: bytes) -> None:
        self._send(self.device.heard(topic, payload, self._host.now()))

    def _send(self, sends: list[Send]) -> None:
        self._connection.publish(sends)
        self._host.schedule(self)


def _context(directory: Path) -> ssl.SSLContext:
    identity = directory / "identity"
    context = ssl.create_default_context(cafile=str(identity / "ca.pem"))
    context.load_cert_chain(identity / pairs.CERTIFICATE, identity / pairs.KEY)
    return context
